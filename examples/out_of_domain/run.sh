#!/usr/bin/env bash
# What training in one domain is worth in others. xnli: English pairs (SNLI's and XNLI's
# development sets), then XNLI's test set in other languages, ANLI and rewritten pairs.
# sst2: film reviews, then the same reviews rewritten to the other sentiment. Run again,
# it fills gaps only.
#   bash examples/out_of_domain/run.sh xnli DATA MULTILINGUAL_MODEL OUT SEEDS...
#   bash examples/out_of_domain/run.sh sst2 DATA MODEL OUT SEEDS...
# DATA holds XNLI, SNLI, ANLI, CAD and glue. LANGUAGES (en,ur,sw), UPDATES, RATE (1e-4)
# and JOBS (2) may be changed; METRIC is the table's (accuracy); MORE is added to every
# run's flags. Each run is evaluated once, at its end: no checkpoint is chosen.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
study=$1 data=$2 model=$3 out=$4
shift 4
bin=$(dirname "${PYTHON:-.venv/bin/python}")
methods=(plain "r3f=--criterion r3f --r3f-eps 0.3" "r_drop=--criterion r_drop")
case $study in
  xnli)
    also=snli=$data/SNLI/test.jsonl,revised=$data/CAD/NLI/revised_combined/test.tsv
    for round in 1 2 3; do also+=,anli_r$round=$data/ANLI/R$round/test.jsonl; done
    updates=${UPDATES:-770} select=test
    flags=("$data/XNLI" --task nli --nli-task xnli --nli-languages "${LANGUAGES:-en,ur,sw}"
      --nli-train "$data/XNLI/en/dev.jsonl,$data/SNLI/dev.jsonl" --valid-subset test
      --steady-also "$also")
    ;;
  sst2)
    updates=${UPDATES:-96} select=valid
    flags=("$data/glue" --task glue --glue-task sst2 --steady-train-size 1000
      --valid-subset valid,test --steady-also-labels Negative=0,Positive=1
      --steady-quoted-tsv --steady-also
      "original=$data/CAD/sentiment/orig/test.tsv,revised=$data/CAD/sentiment/new/test.tsv")
    ;;
  *) echo "error: '$study' is no study; choose from xnli, sst2" >&2; exit 1 ;;
esac
"$bin/fairseq-steady" compare --out "$out/$study" --jobs "${JOBS:-2}" --select $select ${METRIC:+--metric $METRIC} \
  --seeds "$@" --methods "${methods[@]}" -- "${flags[@]}" --user-dir user_dir --steady-model "$model" \
  --batch-size 32 --clip-norm 1 --optimizer bert_adam --bert-adam-bias-correction \
  --lr "${RATE:-1e-4}" --max-update "$updates" --warmup-updates $((updates / 10)) \
  --validate-interval 1000 ${MORE:-}
