#!/usr/bin/env bash
# Whether each method's defaults train: plain, and every method as it is by default and
# as it was before (-old), on SST-2, STS-B and CoLA. Run again, it fills gaps only; after
# a default has changed, give another OUT.
#   bash examples/defaults/run.sh DATA MODEL OUT SEEDS...
# DATA is GLUE's folder. TASKS (sst2 stsb cola), METHODS (all of them), SIZE (1000 training
# sentences), UPDATES (96), RATE (1e-4) and JOBS (2) may be changed; MORE is added to every
# run's flags. With ONCE=1 a run is evaluated at its end only, which is twice as fast, and
# not ten times: nothing chooses a checkpoint.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3
shift 3
bin=$(dirname "${PYTHON:-.venv/bin/python}")
declare -A old=(
  [sift]="--sift-lambda 5 --sift-warmup 0 --sift-init 1e-2 --sift-step 1e-4"
  [smart]="--smart-lambda 1 --smart-warmup 0 --smart-eps 1e-5 --smart-init 1e-5 --smart-step 1e-3"
  [r3f]="--r3f-lambda 1 --r3f-warmup 0 --r3f-eps 1e-5"
  [r4f]="--r4f-lambda 1 --r4f-warmup 0 --r4f-eps 1e-5"
  [r_drop]="--r-drop-lambda 1 --r-drop-warmup 0"
  [hype]="--hype-eps 1e-5"
  [freelb]="--freelb-eps 0.3 --freelb-init 0.4 --freelb-step 0.05"
)
methods=("plain=--criterion plain")
all=({sift,smart,r3f,r4f,r_drop,hype,freelb}{,-old})
for name in ${METHODS:-${all[*]}}; do
  method=${name%-old} flags=
  [ -n "${old[$method]-}" ] || { echo "error: there is no method '$name'; choose from ${all[*]}" >&2; exit 1; }
  [ "$name" = "$method" ] || flags=" ${old[$method]}"
  methods+=("$name=--criterion $method$flags")
done
updates=${UPDATES:-96}
length=(--steady-updates "$updates")
[ -z "${ONCE-}" ] || length=(--max-update "$updates" --lr-scheduler polynomial_decay --validate-interval 1000)
for task in ${TASKS:-sst2 stsb cola}; do
  "$bin/fairseq-steady" compare --out "$out/$task" --jobs "${JOBS:-2}" --seeds "$@" \
    --methods "${methods[@]}" -- "$data" --user-dir user_dir --task glue \
    --glue-task "$task" --steady-model "$model" --steady-train-size "${SIZE:-1000}" \
    --steady-split-dev --valid-subset valid,test --batch-size 32 --clip-norm 1 \
    --optimizer bert_adam --bert-adam-bias-correction --lr "${RATE:-1e-4}" \
    "${length[@]}" ${MORE:-}
done
