#!/usr/bin/env bash
# CoLA's first training sentences with every criterion, three seeds each: 3 epochs, or
# as many updates as asked for. Run again, it fills gaps only.
#   bash examples/family/run.sh DATA MODEL OUT TRAIN_SIZE UPDATES LEARNING_RATE SEEDS...
set -euo pipefail
data=$1 model=$2 out=$3 size=$4 updates=$5 lr=$6
shift 6
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
# shared: the perturbation alone, without dropout's part in the divergence.
exec "$python" "$root/scripts/compare.py" --out "$out" --jobs 2 --seeds "$@" \
  --methods plain \
  'sift=--criterion sift --sift-lambda 1' \
  'smart=--criterion smart' \
  'smart-mbpp=--criterion smart --smart-bregman momentum' \
  'r3f=--criterion r3f' \
  'r3f-shared=--criterion r3f --r3f-dropout shared --r3f-eps 0.1' \
  'r4f=--criterion r4f' \
  'r_drop=--criterion r_drop' \
  'hype=--criterion hype' \
  'freelb=--criterion freelb' \
  -- "$data" --user-dir "$root/user_dir" --task cola --steady-model "$model" \
  --steady-train-size "$size" --steady-split-dev --valid-subset valid,test,ood \
  --batch-size 32 --optimizer bert_adam --bert-adam-bias-correction --clip-norm 1 \
  --lr "$lr" --lr-scheduler polynomial_decay --warmup-updates $((updates / 10)) \
  --total-num-update "$updates" --max-update "$updates" --no-save
