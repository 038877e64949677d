#!/usr/bin/env bash
# Make .venv with everything pinned: torch, fairseq, this package and its tools.
# Idempotent; says nothing when there is nothing to do. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "set-up: $*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  die "no Python 3.11 or 3.12 with venv found; install one, or name it: PYTHON=/path/to/python3.11"
}

step() {  # step WHAT COMMAND...: quiet unless it fails
  local what=$1; shift
  echo "set-up: $what" >&2
  "$@" >>.venv/setup.log 2>&1 \
    || die "$what failed: $(grep -iE '(^| )error' .venv/setup.log | tail -n 1 || true) (whole log: .venv/setup.log)"
}

stamp_now() { cat setup.py scripts/setup.sh constraints/*.txt | sha256sum; }
[ "$(cat .venv/stamp 2>/dev/null)" = "$(stamp_now)" ] && exit 0

if [ ! -x .venv/bin/python ]; then
  python=$(find_python)
  "$python" -m venv .venv || die "$python -m venv failed; install Python's venv package"
fi
py=.venv/bin/python
version=$($py -c 'import sys; print("%d%d" % sys.version_info[:2])')
constraints=constraints/py$version.txt
[ -f "$constraints" ] || die ".venv holds Python $version; remove .venv and use 3.11 or 3.12"
if [ "$version" = 311 ]; then  # only 3.12 has a ready-made wheel
  command -v g++ >/dev/null || die "no C++ compiler; install g++ (Debian: apt-get install g++)"
  $py -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
    || die "no Python headers; install them (Debian: apt-get install python3-dev)"
fi

: >.venv/setup.log
install="$py -m pip install --disable-pip-version-check -c $constraints"
step "installing build tools" $install pip setuptools wheel cython numpy ninja
step "installing torch" $install torch
step "building fairseq (2 to 5 minutes)" env MAX_JOBS="${MAX_JOBS:-2}" \
  $install --no-build-isolation fairseq-fixed
step "installing fairseq-steady" $install --no-build-isolation -e '.[dev]'
# fairseq asks for torchaudio and never uses it here; its only build is for CUDA and
# fails to load beside a CPU torch, which then breaks transformers.
$py -c 'import torchaudio' >>.venv/setup.log 2>&1 \
  || step "removing an unusable torchaudio" $py -m pip uninstall -y torchaudio
.venv/bin/fairseq-steady check >>.venv/setup.log 2>&1 \
  || die "$(grep PROBLEM .venv/setup.log | tail -n 1)"
stamp_now >.venv/stamp
