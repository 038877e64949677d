#!/usr/bin/env bash
# BERT2BERT on CNN/DM, plain against r3f, and lead-3 beside them: train, pick by ROUGE-1
# on valid, summarise the test articles, score. Run again, it fills gaps only.
#   bash examples/summarization/run.sh DATA MODEL OUT UPDATES
# DATA has train.csv, valid.csv and test.csv; MODEL is a model directory with a decoder.
# LENGTH is the tokens kept of an article (256), RATE the learning rate (3e-4),
# WARM the share of updates over which lambda rises (0.5).
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3 updates=$4
bin=$(dirname "${PYTHON:-.venv/bin/python}")
"$bin/fairseq-steady" compare --out "$out" --jobs "${JOBS:-2}" --seeds 1 --keep --methods \
  plain "r3f=--criterion r3f --r3f-eps 0.1 --r3f-lambda 0.1 --r3f-warmup ${WARM:-0.5}" \
  -- "$data" --user-dir user_dir --task summarization --summarization-form cnn_dm \
  --summarization-source-length "${LENGTH:-256}" --summarization-target-length 128 \
  --steady-model "$model" --label-smoothing 0.1 --batch-size 8 --clip-norm 1 \
  --optimizer bert_adam --bert-adam-bias-correction --lr "${RATE:-3e-4}" \
  --steady-updates "$updates" --summarization-decode 24 --valid-subset valid
for method in plain r3f; do
  best=$out/$method/seed1/checkpoint_best.pt text=$out/$method.txt
  if [ "$text" -nt "$best" ] && [ "$text" -nt "$data/test.csv" ]; then continue; fi
  "$bin/fairseq-steady" summarize --model "$model" "$best" "$data/test.csv" >"$text.part"
  mv "$text.part" "$text"
done
"$bin/fairseq-steady" summarize --lead 3 "$data/test.csv" >"$out/lead3.txt"
for method in lead3 plain r3f; do
  echo "$method"
  "$bin/fairseq-steady" rouge "$out/$method.txt" "$data/test.csv"
done | tee "$out/rouge.txt"
