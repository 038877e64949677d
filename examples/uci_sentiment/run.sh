#!/usr/bin/env bash
# Twitter to UCI, plain against sift: train on tweets and test on all of UCI; then train
# on 10 % of UCI and test on the rest. Run again, it fills gaps only.
#   bash examples/uci_sentiment/run.sh DATA MODEL OUT TRAIN_SIZE UPDATES SEEDS...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3 size=$4 updates=$5
shift 5
python=${PYTHON:-.venv/bin/python}
common=("$data" --user-dir user_dir --task uci_sentiment --steady-model "$model"
  --batch-size 32 --optimizer adam --lr 1e-4 --lr-scheduler polynomial_decay)
"$python" scripts/compare.py --out "$out/twitter" --keep --jobs 2 --seeds "$@" \
  --methods plain 'sift=--criterion sift --sift-lambda 1' -- "${common[@]}" --steady-train-size "$size" \
  --warmup-updates $((updates / 10)) --total-num-update "$updates" \
  --max-update "$updates"
started="$out/twitter/METHOD/seed{seed}/checkpoint_best.pt"
exec "$python" scripts/compare.py --out "$out/uci" --jobs 2 --seeds "$@" \
  --methods \
  "plain=--criterion plain --finetune-from-model ${started/METHOD/plain}" \
  "sift=--criterion sift --sift-lambda 1 --finetune-from-model ${started/METHOD/sift}" \
  -- "${common[@]}" --uci-stage uci --warmup-updates 8 --total-num-update 80 \
  --max-update 80 --validate-interval 100 --valid-subset amazon,imdb,yelp --select amazon
