#!/usr/bin/env bash
# CoLA, SST-2 and STS-B through task glue, plain against smart. Run again, it fills gaps.
#   bash examples/glue/run.sh DATA MODEL OUT UPDATES SEEDS...
# DATA is GLUE's folder. TASKS (cola sst2 stsb), SIZE (1000 training sentences) and RATE
# (1e-4) may be changed.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3 updates=$4
shift 4
bin=$(dirname "${PYTHON:-.venv/bin/python}")
for task in ${TASKS:-cola sst2 stsb}; do
  "$bin/fairseq-steady" compare --out "$out/$task" --jobs 2 --seeds "$@" \
    --methods plain 'smart=--criterion smart --smart-eps 1e-5 --smart-init 1e-5 --smart-step 1e-3' -- "$data" --user-dir user_dir --task glue \
    --glue-task "$task" --steady-model "$model" --steady-train-size "${SIZE:-1000}" \
    --steady-split-dev --valid-subset valid,test --batch-size 32 --clip-norm 1 \
    --optimizer bert_adam --bert-adam-bias-correction --lr "${RATE:-1e-4}" \
    --steady-updates "$updates"
done
