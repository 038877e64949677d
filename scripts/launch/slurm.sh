#!/usr/bin/env bash
# SLURM: one task per GPU; saved and put in the queue again before the time is up.
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 --time 4:00:00 \
#     scripts/launch/slurm.sh FLAGS OF FAIRSEQ-TRAIN...
#   bash scripts/launch/slurm.sh --dry-run FLAGS...   # print what a job would start
#SBATCH --job-name=fairseq-steady
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
fail() { echo "slurm.sh: $1" >&2; exit 2; }
[ "$#" -gt 0 ] || fail "no flags of fairseq-train are given"
case " $* " in *" --dry-run "*) fail "--dry-run comes first" ;; esac
# A job runs a copy of this file; it starts where sbatch was called.
bin=$(dirname "${PYTHON:-.venv/bin/python}")
command=(srun --kill-on-bad-exit=1 "$bin/fairseq-train" "$@"
  --distributed-world-size "${SLURM_NTASKS:-1}" --distributed-port "${PORT:-29500}")
if [ -n "$dry" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
"${command[@]}"
status=$?
# 75: a signal stopped the run and it has saved; preemption requeues by itself.
[ "$status" -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
