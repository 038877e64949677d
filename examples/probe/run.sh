#!/usr/bin/env bash
# What an encoder still knows after fine-tuning on SST-2: linear probes of its frozen
# features on CoLA, STS-B and UCI. Run again, it fills gaps only.
#   bash examples/probe/run.sh GLUE SENTIMENT MODEL OUT SIZE UPDATES SEEDS...
# GLUE is GLUE's folder, SENTIMENT that of the sentiment task; SIZE training sentences of
# SST-2, as many of CoLA and of STS-B for their linear models (UCI has its own 10 %).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
glue=$1 sentiment=$2 model=$3 out=$4 size=$5 updates=$6
shift 6
bin=$(dirname "${PYTHON:-.venv/bin/python}")
glued="$glue --task glue --steady-train-size $size --steady-split-dev"
exec "$bin/fairseq-steady" probe generalization --out "$out" --jobs 2 --seeds "$@" \
  --methods plain 'smart=--criterion smart --smart-eps 1e-5 --smart-init 1e-5 --smart-step 1e-3' \
  'r3f=--criterion r3f --r3f-eps 1e-5' 'r4f=--criterion r4f --r4f-eps 1e-5' --tasks \
  "sst2=$glued --glue-task sst2 --valid-subset valid,test" \
  "cola=$glued --glue-task cola --valid-subset valid,test" \
  "stsb=$glued --glue-task stsb --valid-subset valid,test" \
  "uci=$sentiment --task uci_sentiment --uci-stage uci --valid-subset amazon,imdb,yelp" \
  -- --user-dir user_dir --steady-model "$model" --batch-size 32 --clip-norm 1 \
  --optimizer bert_adam --bert-adam-bias-correction --lr "${RATE:-1e-4}" \
  --steady-updates "$updates"
