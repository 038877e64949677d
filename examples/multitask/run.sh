#!/usr/bin/env bash
# MT-DNN's two stages: several GLUE tasks at once, then a new task with part of its data
# from that encoder and, beside it, from the pretrained one. Run again, it fills gaps only.
#   bash examples/multitask/run.sh DATA MODEL OUT SEEDS...
# DATA is GLUE's folder. TASKS are learnt together (cola,stsb) and evaluated on SUBSETS
# (the development set of each), NEW is adapted to (sst2) with the SHARES of its data
# (0.001 0.01 0.1; 1 for all of it). UPDATES of the first stage (400), then of the second
# (100), one number for all shares or one for each. For a task that is not GLUE's,
# NEW_DATA is its folder and NEW its flags, as "--task nli --nli-task snli". EVERY (1) is
# how often smart is applied, as many times as strongly; RATE (4e-4) the learning rate;
# MORE is added to every run's flags. Each run is evaluated once, at its end.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3
shift 3
bin=$(dirname "${PYTHON:-.venv/bin/python}")
tasks=${TASKS:-cola,stsb}
read -ra updates <<<"${UPDATES:-400 100}"
new=${NEW:-sst2}
[[ $new == --* ]] || new="--task glue --glue-task $new"
smart="smart=--criterion smart --smart-every ${EVERY:-1}"
common=(--user-dir user_dir --steady-model "$model" --batch-size 32 --validate-interval 1000
  --lr-scheduler polynomial_decay --lr "${RATE:-4e-4}" --clip-norm 1
  --optimizer bert_adam --bert-adam-bias-correction ${MORE:-})
"$bin/fairseq-steady" compare --out "$out/together" --keep --jobs 2 --seeds "$@" \
  --methods plain "$smart" --select "${tasks%%,*}" -- "$data" "${common[@]}" \
  --task glue_multitask --multitask-names "$tasks" --valid-subset "${SUBSETS:-$tasks}" \
  --max-update "${updates[0]}" --warmup-updates $((updates[0] / 10))
started="$(printf %q "$out")/together/METHOD/seed{seed}/checkpoint_best.pt"
read -ra shares <<<"${SHARES:-0.001 0.01 0.1}"
for i in "${!shares[@]}"; do
  share=${shares[i]}
  size=(--steady-train-size "$share")
  [ "$share" != 1 ] || size=()
  number=${updates[i + 1]:-${updates[-1]}}
  "$bin/fairseq-steady" compare --out "$out/share$share" --jobs 2 --seeds "$@" --methods \
    "pretrained=--criterion plain" \
    "plain=--criterion plain --finetune-from-model ${started/METHOD/plain}" \
    "$smart --finetune-from-model ${started/METHOD/smart}" \
    -- "${NEW_DATA:-$data}" "${common[@]}" $new "${size[@]}" \
    --max-update "$number" --warmup-updates $((number / 10))
done
