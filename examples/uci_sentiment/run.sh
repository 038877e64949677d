#!/usr/bin/env bash
# Twitter to UCI: plain, sift, smart and r3f, trained on tweets and tested on all of UCI; then
# trained on 10 % of UCI and tested on the rest. Run again, it fills gaps only.
#   bash examples/uci_sentiment/run.sh DATA MODEL OUT TRAIN_SIZE UPDATES SEEDS...
# BALANCED=1 takes as many hateful tweets as others, and each method's defaults for the
# papers' values; MORE is added to every run's flags, as --steady-autocast bf16.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3 size=$4 updates=$5
shift 5
bin=$(dirname "${PYTHON:-.venv/bin/python}")
common=("$data" --user-dir user_dir --task uci_sentiment --steady-model "$model"
  --batch-size 32 --optimizer bert_adam --bert-adam-bias-correction --lr 1e-4
  --lr-scheduler polynomial_decay ${MORE:-})
balanced=()
methods=("plain=--criterion plain" "sift=--criterion sift --sift-lambda 1 --sift-warmup 0 --sift-init 1e-2 --sift-step 1e-4"
  "smart=--criterion smart --smart-eps 1e-5 --smart-init 1e-5 --smart-step 1e-3" "r3f=--criterion r3f --r3f-eps 1e-5")
if [ -n "${BALANCED:-}" ]; then
  balanced=(--steady-train-balanced)
  methods=()
  for method in plain sift smart r3f; do methods+=("$method=--criterion $method"); done
fi
"$bin/fairseq-steady" compare --out "$out/twitter" --keep --jobs 2 --seeds "$@" \
  --methods "${methods[@]}" -- "${common[@]}" ${balanced[@]+"${balanced[@]}"} --steady-train-size "$size" \
  --warmup-updates $((updates / 10)) --total-num-update "$updates" \
  --max-update "$updates"
further=()
for method in "${methods[@]}"; do
  started="$(printf %q "$out")/twitter/${method%%=*}/seed{seed}/checkpoint_best.pt"
  further+=("$method --finetune-from-model $started")
done
exec "$bin/fairseq-steady" compare --out "$out/uci" --jobs 2 --seeds "$@" --select amazon \
  --methods "${further[@]}" -- "${common[@]}" --uci-stage uci --warmup-updates 5 \
  --total-num-update 50 --max-update 50 --validate-interval 100 \
  --valid-subset amazon,imdb,yelp
