#!/usr/bin/env bash
# Make .venv with everything pinned: torch, fairseq, this package and its tools.
# Idempotent; says nothing when there is nothing to do. PYTHON names the interpreter,
# TORCH_INDEX the URL of the package index that torch comes from (kept for later runs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "set-up: $*" >&2; }
die() { say "$@"; exit 1; }

supported() {  # the versions that have a constraints file: 3.11 3.12 ...
  local file
  for file in constraints/py3*.txt; do file=${file#constraints/py3}; echo "3.${file%.txt}"; done
}

find_python() {
  local candidate version found=() names=()
  for version in $(supported); do names+=("python$version"); done
  names+=(python3 python)
  [ -z "${PYTHON:-}" ] || names=("$PYTHON")
  for candidate in "${names[@]}"; do
    if version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3]); import venv, ensurepip' 2>/dev/null); then
      supported | grep -qx "${version%.*}" && { echo "$candidate"; return; }
      found+=("$candidate is $version")
    elif [ -n "$version" ]; then
      found+=("$candidate is $version without venv")
    fi
  done
  die "no usable Python: it takes one of $(supported | paste -sd ' ' -) with venv; found: $(IFS=,; echo "${found[*]:-none}")
  Debian 12 or 13, Ubuntu 24.04: apt-get install python3-venv python3-dev g++
  anywhere else, with uv: uv python install 3.12, then PYTHON=\"\$(uv python find 3.12)\" bash scripts/setup.sh"
}

step() {  # step WHAT COMMAND...: quiet unless it fails
  local what=$1; shift
  say "$what"
  "$@" >>.venv/setup.log 2>&1 \
    || die "$what failed: $(grep -iE '(^| )error' .venv/setup.log | tail -n 1 || true) (whole log: .venv/setup.log)"
}

need_compiler() {
  command -v g++ >/dev/null || die "no C++ compiler; install g++ (Debian: apt-get install g++)"
  $py -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
    || die "no Python headers; install them (Debian: apt-get install python$version-dev)"
}

# Whose torch was asked for: TORCH_INDEX now, or at the last set-up.
kept_index=$(cat .venv/torch-index 2>/dev/null || true)
index=${TORCH_INDEX:-$kept_index}

has_torch() {  # has_torch RELEASE: of any build, unless another index is asked for
  [ "$index" = "$kept_index" ] && $py -c 'import sys
from importlib.metadata import version
sys.exit(version("torch").split("+")[0] != sys.argv[1])' "$1" 2>/dev/null
}

has_gpu() { [ -e /proc/driver/nvidia ] || nvidia-smi -L >/dev/null 2>&1; }

install_torch() {
  local release; release=$(sed -n 's/^torch==//p' "$constraints")
  has_torch "$release" && return
  if [ -n "$index" ]; then
    step "installing torch $release from TORCH_INDEX (0.2 GB for the CPU, 3 GB with CUDA)" \
      $install --force-reinstall --no-deps --index-url "$index" "torch==$release"
    echo "$index" >.venv/torch-index
  elif [ "$(uname -s)" = Linux ] && ! has_gpu; then
    say "no NVIDIA driver here: looking for torch $release's CPU build (0.2 GB)"
    $install --no-deps "torch==$release+cpu" >>.venv/setup.log 2>&1 \
      || say "your package index has none; TORCH_INDEX=URL names one that has"
  fi
  has_torch "$release" || [ -n "$index" ] \
    || say "torch $release's usual build: with CUDA, 2.7 GB to download, 4.3 GB on disk"
  step "installing torch and what it needs" $install torch
}

stamp_now() { { cat setup.py scripts/setup.sh user_dir/patches/installed.py constraints/*.txt; echo "$index"; } | sha256sum; }
[ "$(cat .venv/stamp 2>/dev/null)" = "$(stamp_now)" ] && exit 0

if [ ! -x .venv/bin/python ]; then
  python=$(find_python)
  "$python" -m venv .venv || die "$python -m venv failed; install Python's venv package"
fi
py=.venv/bin/python
version=$($py -c 'import sys; print("%d.%d" % sys.version_info[:2])')
constraints=constraints/py${version/./}.txt
[ -f "$constraints" ] || die ".venv holds Python $version; remove .venv and use one of $(supported | paste -sd ' ' -)"
# fairseq-fixed has one ready-made wheel
[ "$version $(uname -sm)" = "3.12 Linux x86_64" ] || need_compiler

: >.venv/setup.log
if [ -n "$index" ]; then  # another build of torch wants other CUDA libraries
  grep -vE '^(cuda|nvidia)-' "$constraints" >.venv/constraints.txt
  constraints=.venv/constraints.txt
fi
install="$py -m pip install --disable-pip-version-check -c $constraints"
step "installing build tools" $install pip setuptools wheel cython numpy ninja
install_torch
step "building fairseq (2 to 5 minutes)" env MAX_JOBS="${MAX_JOBS:-2}" \
  $install --no-build-isolation fairseq-fixed
step "installing fairseq-steady" $install --no-build-isolation -e '.[dev]'
# fairseq asks for torchaudio and never uses it here; its only build is for CUDA and
# fails to load beside a CPU torch, which then breaks transformers.
$py -c 'import torchaudio' >>.venv/setup.log 2>&1 \
  || step "removing an unusable torchaudio" $py -m pip uninstall -y torchaudio
[ "$version" != 3.14 ] || step "mending what Python 3.14 breaks" $py user_dir/patches/installed.py
$py scripts/check_env.py >>.venv/setup.log 2>&1 \
  || die "$(grep PROBLEM .venv/setup.log | tail -n 1)"
stamp_now >.venv/stamp
