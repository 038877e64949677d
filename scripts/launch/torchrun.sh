#!/usr/bin/env bash
# torchrun on several nodes of GPUs; run on each.
#   bash scripts/launch/torchrun.sh [--dry-run] FLAGS OF FAIRSEQ-TRAIN...
# NODES, NODE (0 to NODES - 1), MASTER (the address of node 0), PORT (29500) and GPUS (as
# many as there are here). Without GPUs use local.sh, which takes the same variables:
# fairseq would train as many copies.
set -euo pipefail
dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$(dirname "${PYTHON:-$here/.venv/bin/python}")
gpus=${GPUS:-$("$bin/python" -c 'import torch; print(torch.cuda.device_count())')}
if [ "$gpus" -eq 0 ]; then
  echo "torchrun.sh: there is no GPU here; use scripts/launch/local.sh" >&2
  exit 2
fi
command=("$bin/torchrun" --nnodes "${NODES:-1}" --node-rank "${NODE:-0}"
  --nproc-per-node "$gpus" --master-addr "${MASTER:-127.0.0.1}"
  --master-port "${PORT:-29500}" "$bin/fairseq-train" "$@"
  --distributed-world-size $((${NODES:-1} * gpus)))
if [ -n "$dry" ]; then echo "${command[*]}"; else exec "${command[@]}"; fi
