#!/usr/bin/env bash
# BART of base size (139 M random weights) at CNN/DM's lengths on a CPU: articles longer
# than 1,024 tokens are cut, summaries have 140. Slow: minutes of a core, 4 GB.
#   bash scripts/benchmarks/bart.sh TEXT OUT
# TEXT is a file of sentences whose words the model knows. What is told: peak memory and
# seconds of an update, plain and r3f; then tokens a second of training and decoding
# beside transformers, on the same weights.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
text=$1 out=$2
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
[ -f "$out/model/manifest.json" ] || "$python" scripts/benchmarks/random_model.py \
  "$out/model" "$text" --family bart --layers 6 --types 50264
# Each article has as many words as tokens are kept, and so two tokens too many.
"$python" scripts/benchmarks/runs.py summaries "$out/model" "$text" "$out/runs" \
  --sentences "${SENTENCES:-2}" --source 1024 --target 140 --updates "${UPDATES:-8}" --limit 1800
tr '\n' ' ' <"$text" | fold -s -w 6000 >"$out/articles.txt"
"$python" scripts/benchmarks/summaries.py "$out/model" "$out/articles.txt" \
  --articles "${SENTENCES:-2}" --source 1024 --target 140 --rounds "${ROUNDS:-3}"
