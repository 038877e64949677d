#!/usr/bin/env bash
# What cheaper regularisation loses: smart and r3f as they are, on every 4th update, on
# a quarter of the sentences, with perturbations that are kept, and both, on SST-2 and
# STS-B. Run again, it fills gaps only.
#   bash examples/economy/run.sh DATA MODEL OUT SEEDS...
# DATA is GLUE's folder. TASKS (sst2 stsb), SIZE (1000 training sentences), UPDATES (96),
# RATE (1e-4) and JOBS (2) may be changed; MORE is added to every run's flags. METHODS
# chooses some of them, as "smart smart-every4": the first is what the others are compared
# with, and the tables in OUT are of these.
# Each epoch ends with an evaluation, which chooses the checkpoint: ten of them, as the
# recipe --steady-updates has, would take longer than the training.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3
shift 3
bin=$(dirname "${PYTHON:-.venv/bin/python}")
# Radii at which the perturbation counts beside dropout; the papers' 1e-5 does not.
smart="--criterion smart --smart-eps 0.02 --smart-init 0.01 --smart-step 0.02"
r3f="--criterion r3f --r3f-eps 0.3"
declare -A flags=(
  [plain]="--criterion plain"
  [smart]="$smart"
  [smart-every4]="$smart --smart-every 4"
  [smart-quarter]="$smart --smart-fraction 0.25"
  [smart-cache8]="$smart --smart-cache 8"
  [smart-cache8-quarter]="$smart --smart-cache 8 --smart-fraction 0.25"
  [r3f]="$r3f"
  [r3f-every4]="$r3f --r3f-every 4"
  [r3f-quarter]="$r3f --r3f-fraction 0.25"
  [r3f-one-side]="$r3f --r3f-stop-gradient perturbed --r3f-lambda 2"
)
methods=()
for name in ${METHODS:-plain smart smart-every4 smart-quarter smart-cache8 smart-cache8-quarter \
  r3f r3f-every4 r3f-quarter r3f-one-side}; do
  methods+=("$name=${flags[$name]}")
done
updates=${UPDATES:-96}
for task in ${TASKS:-sst2 stsb}; do
  "$bin/fairseq-steady" compare --out "$out/$task" --jobs "${JOBS:-2}" --seeds "$@" \
    --methods "${methods[@]}" -- "$data" --user-dir user_dir --task glue \
    --glue-task "$task" --steady-model "$model" --steady-train-size "${SIZE:-1000}" \
    --steady-split-dev --valid-subset valid,test --batch-size 32 --clip-norm 1 \
    --optimizer bert_adam --bert-adam-bias-correction --lr "${RATE:-1e-4}" \
    --max-update "$updates" --lr-scheduler polynomial_decay \
    --warmup-updates $((updates / 10)) ${MORE:-}
done
