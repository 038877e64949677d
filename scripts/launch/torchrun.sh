#!/usr/bin/env bash
# torchrun on several nodes of GPUs; run on each.
#   bash scripts/launch/torchrun.sh [--dry-run] FLAGS OF FAIRSEQ-TRAIN...
# NODES, NODE (0 to NODES - 1), MASTER (the address of node 0), PORT (29500) and GPUS (as
# many as there are here). Without GPUs use local.sh, which takes the same variables:
# fairseq would train as many copies.
set -euo pipefail
dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
fail() { echo "torchrun.sh: $1" >&2; exit 2; }
# Bash would evaluate an expression.
number() { [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "$1 '$2' is no number"; }
[ "$#" -gt 0 ] || fail "no flags of fairseq-train are given"
case " $* " in *" --dry-run "*) fail "--dry-run comes first" ;; esac
number NODES "${NODES:-1}"; number NODE "${NODE:-0}"; number PORT "${PORT:-29500}"
[ "${NODE:-0}" -lt "${NODES:-1}" ] || fail "NODE ${NODE:-0} is not below NODES ${NODES:-1}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$(dirname "${PYTHON:-$here/.venv/bin/python}")
[ -x "$bin/python" ] || fail "$bin has no python; run scripts/setup.sh"
gpus=${GPUS:-$("$bin/python" -c 'import torch; print(torch.cuda.device_count())')}
number GPUS "$gpus"
[ "$gpus" -gt 0 ] || fail "there is no GPU here; use scripts/launch/local.sh"
command=("$bin/torchrun" --nnodes "${NODES:-1}" --node-rank "${NODE:-0}"
  --nproc-per-node "$gpus" --master-addr "${MASTER:-127.0.0.1}"
  --master-port "${PORT:-29500}" "$bin/fairseq-train" "$@"
  --distributed-world-size $((${NODES:-1} * gpus)))
if [ -n "$dry" ]; then printf '%q ' "${command[@]}"; echo; else exec "${command[@]}"; fi
