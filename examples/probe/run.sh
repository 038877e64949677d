#!/usr/bin/env bash
# What an encoder still knows after fine-tuning on SST-2: linear probes of its frozen
# features on CoLA, STS-B and UCI. Run again, it fills gaps only.
#   bash examples/probe/run.sh GLUE SENTIMENT MODEL OUT SIZE UPDATES SEEDS...
# GLUE is GLUE's folder, SENTIMENT that of the sentiment task; SIZE training sentences of
# SST-2, as many of CoLA and of STS-B (UCI has its own 10 %). DESIGN (generalization) may
# be chain or cycle, which fine-tune on SST-2, CoLA and STS-B in turn, UPDATES each;
# METHODS are which of plain, smart, r3f and r4f (all), RATE is the learning rate (1e-4).
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
glue=$1 sentiment=$2 model=$3 out=$4 size=$5 updates=$6
shift 6
bin=$(dirname "${PYTHON:-.venv/bin/python}") design=${DESIGN:-generalization}
glued="$(printf %q "$glue") --task glue --steady-train-size $size --steady-split-dev"
flags() {
  case $1 in
    plain) echo "--criterion plain" ;;
    smart) echo "--criterion smart --smart-eps 1e-5 --smart-init 1e-5 --smart-step 1e-3" ;;
    r3f | r4f) echo "--criterion $1 --$1-eps 1e-5" ;;
    *) echo "error: there is no method '$1'" >&2; return 1 ;;
  esac
}
methods=()
for name in ${METHODS:-plain smart r3f r4f}; do
  said=$(flags "$name")
  methods+=("$name=$said")
done
tasks=()
for name in sst2 cola stsb; do
  tasks+=("$name=$glued --glue-task $name --valid-subset valid,test")
done
if [ "$design" = generalization ]; then
  tasks+=("uci=$(printf %q "$sentiment") --task uci_sentiment --uci-stage uci --valid-subset amazon,imdb,yelp")
fi
exec "$bin/fairseq-steady" probe "$design" --out "$out" --jobs 2 --seeds "$@" \
  --methods "${methods[@]}" --tasks "${tasks[@]}" \
  -- --user-dir user_dir --steady-model "$model" --batch-size 32 --clip-norm 1 \
  --optimizer bert_adam --bert-adam-bias-correction --lr "${RATE:-1e-4}" \
  --steady-updates "$updates"
