#!/usr/bin/env bash
# CoLA's training sentences with every criterion and pats_adamax, for as many updates as
# asked for. Run again, it fills gaps only. METHODS=8 leaves out the last three.
#   bash examples/family/run.sh DATA MODEL OUT TRAIN_SIZE UPDATES LEARNING_RATE SEEDS...
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3 size=$4 updates=$5 lr=$6
shift 6
bin=$(dirname "${PYTHON:-.venv/bin/python}")
adam="--optimizer bert_adam --bert-adam-bias-correction"
# r3f-shared: the perturbation alone, without dropout's part in the divergence.
# What was default when these were run.
sift="--sift-lambda 1 --sift-warmup 0 --sift-init 1e-2 --sift-step 1e-4"
smart="--smart-eps 1e-5 --smart-init 1e-5 --smart-step 1e-3"
freelb="--freelb-eps 0.3 --freelb-init 0.4 --freelb-step 0.05"
methods=(
  "plain=--criterion plain $adam"
  "sift=--criterion sift $sift $adam"
  "smart=--criterion smart $smart $adam"
  "r3f=--criterion r3f --r3f-eps 1e-5 $adam"
  "r4f=--criterion r4f --r4f-eps 1e-5 $adam"
  "r_drop=--criterion r_drop $adam"
  "hype=--criterion hype --hype-eps 1e-5 $adam"
  "pats_adamax=--criterion plain --optimizer pats_adamax"
  "smart-mbpp=--criterion smart $smart --smart-bregman momentum $adam"
  "r3f-shared=--criterion r3f --r3f-dropout shared --r3f-eps 0.1 $adam"
  "freelb=--criterion freelb $freelb $adam"
)
exec "$bin/fairseq-steady" compare --out "$out" --jobs 2 --seeds "$@" \
  --methods "${methods[@]:0:${METHODS:-11}}" \
  -- "$data" --user-dir user_dir --task cola --steady-model "$model" \
  --steady-train-size "$size" --steady-split-dev --valid-subset valid,test,ood \
  --batch-size 32 --clip-norm 1 --lr "$lr" --steady-updates "$updates"
