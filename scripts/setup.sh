#!/usr/bin/env bash
# Make .venv with everything pinned: torch, fairseq, this package and its tools.
# Idempotent; says nothing when there is nothing to do. PYTHON names the interpreter,
# TORCH_INDEX the URL of the package index that torch comes from (kept for later runs),
# FAIRSEQ_SOURCE a checkout of fairseq, whose CUDA n-gram blocker nvcc then builds.
set -euo pipefail
case ${FAIRSEQ_SOURCE:-/} in /*) ;; *) FAIRSEQ_SOURCE=$PWD/$FAIRSEQ_SOURCE ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "set-up: $*" >&2; }
die() { say "$@"; exit 1; }

pins() { echo "constraints/py${1/./}.txt"; }  # pins 3.11; what has none is not supported
supported() { ls constraints | sed -n 's/^py3\(.*\)\.txt$/3.\1/p'; }
listed() { supported | paste -sd, - | sed 's/,/, /g; s/\(.*\), /\1 or /'; }

find_python() {
  local candidate version found="" names=()
  for version in $(supported); do names+=("python$version"); done
  names+=(python3 python)
  [ -z "${PYTHON:-}" ] || names=("$PYTHON")
  for candidate in "${names[@]}"; do
    if version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3]); import venv, ensurepip' 2>/dev/null); then
      [ ! -f "$(pins "${version%.*}")" ] || { echo "$candidate"; return; }
    elif [ -n "$version" ]; then
      version+=" without venv"
    fi
    [ -z "$version" ] || found+="${found:+, }$candidate ($version)"
  done
  die "no usable Python: wanted $(listed) with venv; found ${found:-none}
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

cpu_build() {  # cpu_build RELEASE: install it, if there is one
  say "no NVIDIA driver here: looking for torch $1's CPU build (0.2 GB)"
  $install --no-deps "torch==$1+cpu" >>.venv/setup.log 2>&1 \
    || { say "your package index has none; TORCH_INDEX=URL names one that has"; return 1; }
}

install_torch() {
  local release; release=$(sed -n 's/^torch==//p' "$constraints")
  has_torch "$release" && return
  rm -f $blocker*.so  # it is built for one torch
  if [ -n "$index" ]; then
    step "installing torch $release from TORCH_INDEX (0.2 GB for the CPU, 2.7 GB with CUDA)" \
      $install --force-reinstall --no-deps --index-url "$index" "torch==$release"
    echo "$index" >.venv/torch-index
  elif has_gpu || ! cpu_build "$release"; then
    say "torch $release's usual build has CUDA: 2.7 GB to download, 4.6 GB on disk"
  fi
  step "installing torch and what it needs" $install torch
}

# fairseq's CUDA kernel against repeated n-grams in summaries. It is the one of fairseq's
# CUDA extensions that anything here uses; no package of fairseq's has its source.
blocker=.venv/lib/python3*/site-packages/fairseq/ngram_repeat_block_cuda
asked=${FAIRSEQ_SOURCE:-}
has_blocker() { compgen -G "$blocker*.so" >/dev/null; }

BUILD='
import shutil, sys
from importlib.util import find_spec
from torch.utils.cpp_extension import load
source, name, built = sys.argv[1], "ngram_repeat_block_cuda", ".venv/ngram_blocker"
files = [f"{source}/{name}.cpp", f"{source}/{name}_kernel.cu"]
load(name, files, build_directory=built)
shutil.copy(f"{built}/{name}.so", find_spec("fairseq").submodule_search_locations[0])
'

build_blocker() {
  has_blocker && return
  if ! command -v nvcc >/dev/null || ! $py -c 'import sys, torch; sys.exit(not torch.version.cuda)' 2>>.venv/setup.log; then
    [ -z "$asked" ] || die "FAIRSEQ_SOURCE is for building with CUDA: it needs nvcc, and a torch that has CUDA"
  elif [ -z "$asked" ]; then
    say "nvcc is here, and fairseq's CUDA n-gram blocker (summaries only) is not built: fairseq's packages lack its source; FAIRSEQ_SOURCE=DIR names a checkout of fairseq"
  else
    [ -f "$asked/fairseq/clib/cuda/ngram_repeat_block_cuda.cpp" ] || die "FAIRSEQ_SOURCE=$asked is no checkout of fairseq: it has no fairseq/clib/cuda/ngram_repeat_block_cuda.cpp"
    mkdir -p .venv/ngram_blocker
    # nvcc knows where CUDA is, also where what is on the PATH only calls another.
    step "building fairseq's CUDA n-gram blocker (1 to 3 minutes)" env \
      CUDA_HOME="${CUDA_HOME:-$(nvcc --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')}" \
      PATH="$PWD/.venv/bin:$PATH" $py -c "$BUILD" "$asked/fairseq/clib/cuda"
  fi
}

stamp_now() {
  { cat setup.py scripts/setup.sh user_dir/patches/installed.py constraints/*.txt; echo "$index"; } | sha256sum
}
[ "$(cat .venv/stamp 2>/dev/null)" = "$(stamp_now)" ] && { [ -z "$asked" ] || has_blocker; } && exit 0

if [ ! -x .venv/bin/python ]; then
  python=$(find_python)
  "$python" -m venv .venv || die "$python -m venv failed; install Python's venv package"
fi
py=.venv/bin/python
version=$($py -c 'import sys; print("%d.%d" % sys.version_info[:2])')
constraints=$(pins "$version")
[ -f "$constraints" ] || die ".venv holds Python $version; remove .venv and use $(listed)"
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
# With CUDA_HOME its build would want CUDA sources that the package lacks.
step "installing fairseq (2 to 5 minutes where it compiles)" \
  env -u CUDA_HOME MAX_JOBS="${MAX_JOBS:-2}" $install --no-build-isolation fairseq-fixed
build_blocker
step "installing fairseq-steady and its tools (0.5 GB)" $install --no-build-isolation -e '.[dev]'
[ "$version" != 3.14 ] || step "mending what Python 3.14 breaks" $py user_dir/patches/installed.py
# fairseq asks for torchaudio and never uses it here; its only build is for CUDA and
# fails to load beside a CPU torch, which then breaks transformers.
$py -c 'import torchaudio' >>.venv/setup.log 2>&1 \
  || step "removing an unusable torchaudio" $py -m pip uninstall -y torchaudio
$py -m fairseq_steady check >>.venv/setup.log 2>&1 \
  || die "$(grep PROBLEM .venv/setup.log | tail -n 1)"
stamp_now >.venv/stamp
