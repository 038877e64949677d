#!/usr/bin/env bash
# Few-sample fine-tuning, one study at a time. Run again, it fills gaps only.
#   bash examples/few_sample/run.sh STUDY DATA MODEL OUT SEEDS...
# STUDY is one of
#   bias     bert_adam with bias correction, without it, and without it at LOW (5e-5), the
#            best rate of low (arXiv 2006.05987)
#   tuned    with it and without it, each at the best of the same six learning rates (TUNING:
#            the seeds that choose, 101 102)
#   low      bert_adam without it, with four lower learning rates
#   reinit   the top 0 to 6 layers re-initialised
#   again    bias's first row, and the top LAYERS (3) layers re-initialised, as reinit's
#            best of six: to be run with seeds that reinit was not
#   longer   100 to 1600 updates on the same 1,000 sentences (LENGTHS changes them)
#   rates    Adamax with four learning rates
#   noise    pats_adamax paper-A, paper-B, NoisyTune, sage, Adamax
#   lambdas  pats_adamax with noise from the paper's size up to 10,000 times that
#   sage     Adam, and sage on Adam as its authors have it, each with the best of three
#            learning rates, sage's twice to five times those of Adam (TUNING, too).
#            UNTIL (none) adds seeds, up to so many, while the two are not told apart on
#            test
# DATA is CoLA's folder. SIZE, UPDATES and RATE change the 2,500 sentences (as many as
# RTE has), the 234 updates (3 epochs) and the learning rate; MORE is added to every
# run's flags, as --steady-autocast bf16.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
study=$1 data=$2 model=$3 out=$4
shift 4
bin=$(dirname "${PYTHON:-.venv/bin/python}")
size=${SIZE:-2500} updates=${UPDATES:-234} rate=${RATE:-1e-4}
corrected="--optimizer bert_adam --bert-adam-bias-correction"
length="--steady-updates $updates"
adamax="--optimizer pats_adamax $length"
options=() six="{1e-5,2e-5,5e-5,1e-4,2e-4,4e-4}"
read -ra tuning <<<"--tuning-seeds ${TUNING:-101 102}"
case $study in
  bias)
    methods=("corrected=$corrected $length"
      "uncorrected=--optimizer bert_adam $length"
      "uncorrected-low=--optimizer bert_adam $length --lr ${LOW:-5e-5}") ;;
  tuned)
    methods=("corrected=$corrected $length --lr $six" "uncorrected=--optimizer bert_adam $length --lr $six")
    options=("${tuning[@]}") ;;
  low)
    methods=()
    for one in 5e-6 1e-5 2e-5 5e-5; do
      methods+=("uncorrected-$one=--optimizer bert_adam $length --lr $one")
    done ;;
  reinit)
    methods=()
    for layers in 0 1 2 3 4 5 6; do
      methods+=("reinit$layers=$corrected $length --steady-reinit-layers $layers")
    done ;;
  again)
    methods=("corrected=$corrected $length"
      "reinit${LAYERS:-3}=$corrected $length --steady-reinit-layers ${LAYERS:-3}") ;;
  longer)
    size=${SIZE:-1000} methods=()
    for length in ${LENGTHS:-100 200 400 800 1600}; do
      methods+=("updates$length=$corrected --steady-updates $length")
    done ;;
  rates)
    methods=()
    for one in 1e-4 2e-4 4e-4 8e-4; do
      methods+=("adamax-$one=$adamax --pats-lambda 0 --lr $one")
    done ;;
  noise)
    methods=("adamax=$adamax --pats-lambda 0"
      "paper-A=$adamax --pats-preset paper-A"
      "paper-B=$adamax --pats-preset paper-B"
      "noisytune=$adamax --pats-lambda 0 --steady-noisytune 0.15"
      "sage=--optimizer sage --sage-base adamax --sage-bias-correction $length") ;;
  lambdas)
    methods=("adamax=$adamax --pats-lambda 0")
    for one in 1e-6 1e-5 1e-4 1e-3 1e-2; do
      methods+=("lambda$one=$adamax --pats-lambda $one")
    done ;;
  sage)
    methods=("adam=$corrected $length --lr {5e-5,1e-4,2e-4}"
      "sage=--optimizer sage --sage-bias-correction --sage-guard 1e-12 --sage-eps 1e-6 --sage-weight-decay 0.01 $length --lr {2e-4,3e-4,5e-4}")
    options=("${tuning[@]}" ${UNTIL:+--until-decided test --at-most "$UNTIL"}) ;;
  *) echo "few_sample: $study is none of bias, tuned, low, reinit, again, longer, rates, noise, lambdas, sage" >&2; exit 1 ;;
esac
exec "$bin/fairseq-steady" compare --out "$out/$study" --jobs 2 --seeds "$@" \
  ${options[@]+"${options[@]}"} --methods "${methods[@]}" -- "$data" --user-dir user_dir --task cola \
  --criterion plain --steady-model "$model" --steady-train-size "$size" \
  --steady-split-dev --valid-subset valid,test,ood --batch-size 32 --clip-norm 1 \
  --lr "$rate" ${MORE:-}
