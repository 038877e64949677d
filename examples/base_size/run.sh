#!/usr/bin/env bash
# plain and r_drop on an encoder of base size: CoLA, all 8,551 sentences, three epochs, and
# SST-2 from 1,000 sentences. Run again, it fills gaps only.
#   bash examples/base_size/run.sh DATA MODEL OUT SEEDS...
# DATA is GLUE's folder. TASKS (cola sst2), RATE (3e-5), UPDATES (three epochs) and JOBS (2)
# may be changed; MORE is added to every run's flags, as --steady-autocast bf16. Each run
# is evaluated once, at its end: no checkpoint is chosen.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3
shift 3
bin=$(dirname "${PYTHON:-.venv/bin/python}")
for task in ${TASKS:-cola sst2}; do
  case $task in
    cola) updates=804 flags=() ;;
    sst2) updates=96 flags=(--steady-train-size 1000) ;;
    *) echo "error: '$task' is no task of this study; choose from cola, sst2" >&2; exit 1 ;;
  esac
  updates=${UPDATES:-$updates}
  "$bin/fairseq-steady" compare --out "$out/$task" --jobs "${JOBS:-2}" --seeds "$@" \
    --methods plain r_drop -- "$data" --user-dir user_dir --task glue --glue-task "$task" \
    --steady-model "$model" ${flags[@]+"${flags[@]}"} --batch-size 32 --clip-norm 1 \
    --optimizer bert_adam --bert-adam-bias-correction --lr "${RATE:-3e-5}" \
    --lr-scheduler polynomial_decay --max-update "$updates" --warmup-updates $((updates / 10)) \
    --validate-interval 1000 ${MORE:-}
done
