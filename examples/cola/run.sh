#!/usr/bin/env bash
# CoLA, plain against sift with lambda 1: a learning rate from the first half of the
# development set, then three seeds read on the second half. Run again, it fills gaps only.
#   bash examples/cola/run.sh DATA MODEL OUT TRAIN_SIZE UPDATES [LEARNING_RATE]
# Without a learning rate it stops after the search and prints its table. BATCH is the
# number of sentences in a batch (32).
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3 size=$4 updates=$5 lr=${6:-}
bin=$(dirname "${PYTHON:-.venv/bin/python}")
common=("$data" --user-dir user_dir --task cola --steady-model "$model"
  --steady-train-size "$size" --steady-split-dev --batch-size "${BATCH:-32}"
  --optimizer bert_adam --bert-adam-bias-correction --lr-scheduler polynomial_decay
  --warmup-updates $((updates / 10)) --total-num-update "$updates" --max-update "$updates")
if [ -z "$lr" ]; then
  exec "$bin/fairseq-steady" compare --out "$out/rates" --jobs 2 --seeds 1 \
    --methods 'plain-1e-4=--criterion plain --lr 1e-4' \
    'plain-2e-4=--criterion plain --lr 2e-4' \
    -- "${common[@]}" --valid-subset valid
fi
exec "$bin/fairseq-steady" compare --out "$out/seeds" --jobs 2 --seeds 1 2 3 \
  --methods plain 'sift=--criterion sift --sift-lambda 1 --sift-warmup 0 --sift-init 1e-2 --sift-step 1e-4' \
  -- "${common[@]}" --lr "$lr" --valid-subset valid,test,ood
