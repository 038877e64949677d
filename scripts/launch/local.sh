#!/usr/bin/env bash
# N workers on this machine: one per GPU, or CPU processes (gloo) where there is none.
#   bash scripts/launch/local.sh [--dry-run] N FLAGS OF FAIRSEQ-TRAIN...
# On several machines run it on each, with NODES, NODE (0 to NODES - 1) and MASTER (the
# address of node 0). PORT (29500) is where workers meet. SIGTERM and SIGUSR1 let all
# of them save and stop, with status 75; when one fails, the others are ended.
set -uo pipefail
dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
fail() { echo "local.sh: $1" >&2; exit 2; }
# Where wait says who ended.
[ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 501 ] || fail "bash $BASH_VERSION is older than 5.1"
# Bash would evaluate an expression.
number() { [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "$1 '$2' is no number"; }
count=${1:-}
[[ $count =~ ^[1-9][0-9]{0,5}$ ]] || fail "'$count' is no number of workers"
shift
[ "$#" -gt 0 ] || fail "no flags of fairseq-train are given"
case " $* " in *" --dry-run "*) fail "--dry-run comes first, before $count" ;; esac
number NODES "${NODES:-1}"; number NODE "${NODE:-0}"; number PORT "${PORT:-29500}"
[ "${NODE:-0}" -lt "${NODES:-1}" ] || fail "NODE ${NODE:-0} is not below NODES ${NODES:-1}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$(dirname "${PYTHON:-$here/.venv/bin/python}")
[ -x "$bin/python" ] || fail "$bin has no python; run scripts/setup.sh"
gpus=${GPUS:-$("$bin/python" -c 'import torch; print(torch.cuda.device_count())')}
number GPUS "$gpus"
if [ "$gpus" -gt 0 ] && [ "$gpus" -lt "$count" ]; then
  fail "$count workers asked for and $gpus GPUs here"
fi
kind=()
[ "$gpus" -gt 0 ] || kind=(--cpu --distributed-backend gloo --ddp-backend legacy_ddp)
together=(--distributed-world-size $((count * ${NODES:-1})) --distributed-no-spawn
  --distributed-init-method "tcp://${MASTER:-127.0.0.1}:${PORT:-29500}")
workers=()
for ((local = 0; local < count; local++)); do
  command=("$bin/fairseq-train" "${kind[@]}" "$@" "${together[@]}"
    --distributed-rank $((count * ${NODE:-0} + local)))
  [ "$gpus" -eq 0 ] || command+=(--device-id "$local")
  if [ -n "$dry" ]; then
    printf '%q ' "${command[@]}"; echo
  else
    "${command[@]}" &
    workers+=($!)
  fi
done
[ -z "$dry" ] || exit 0
trap 'kill -TERM "${workers[@]}" 2>/dev/null' TERM USR1 INT
status=0 ender=
while [ "${#workers[@]}" -gt 0 ]; do
  which=
  wait -n -p which "${workers[@]}"
  code=$? running=()
  for worker in "${workers[@]}"; do
    if [ "$worker" = "${which:-}" ]; then
      ended=$code
    elif kill -0 "$worker" 2>/dev/null; then
      running+=("$worker")
      continue
    else
      wait "$worker"
      ended=$?
    fi
    [ "$status" -ne 0 ] || status=$ended
  done
  workers=("${running[@]}")
  if [ "$status" -ne 0 ] && [ "$status" -ne 75 ] && [ -z "$ender" ]; then
    # The others have time to name the one that is lost.
    (sleep 30; kill -KILL "${workers[@]}") >/dev/null 2>&1 &
    ender=$!
  fi
done
[ -z "$ender" ] || kill "$ender" 2>/dev/null
exit "$status"
