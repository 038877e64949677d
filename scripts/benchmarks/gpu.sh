#!/usr/bin/env bash
# Everything here that wants a GPU, in under ten minutes, and a report of it in a folder:
# report.md and the output of each step. Without a GPU it runs what applies, smaller.
#   bash scripts/benchmarks/gpu.sh OUT
# PYTHON names the interpreter (.venv's, else python3); nothing is installed or fetched.
# DEVICE is cuda or cpu (cuda where there is one), MODEL and BART are model directories
# (random weights of BERT-base's and BART-base's shapes), SECONDS_LEFT is the time in all
# (570): a step that finds none left is left out. ONLY chooses steps by name ("tests runs").
# Exit status 1 if a step failed or found no time.
set -uo pipefail
[ $# = 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 1
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
py=${PYTHON:-.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$py" ] || py=python3
py=$(command -v "$py") || { echo "gpu.sh: no interpreter ${PYTHON:-python3}" >&2; exit 1; }
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" XDG_CACHE_HOME="$out/cache"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

has() { "$py" -c "import $1" >/dev/null 2>&1; }
if ! has fairseq_steady; then  # a bare machine: the checkout is the package
  mkdir -p "$out/package" && ln -sfn "$PWD/user_dir" "$out/package/fairseq_steady"
  export PYTHONPATH="$out/package${PYTHONPATH:+:$PYTHONPATH}"
  "$py" -c 'import fairseq_steady.tasks' >"$out/import.log" 2>&1 \
    || { echo "gpu.sh: $py lacks what this needs: $(tail -n 1 "$out/import.log")" >&2; exit 1; }
fi
device=${DEVICE:-$("$py" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
end=$((SECONDS + ${SECONDS_LEFT:-570})) bad=0 rows=() steps=()

step() {  # step NAME LIMIT COMMAND...: its output in NAME.txt, its outcome in the report
  local name=$1 limit=$2 began=$SECONDS said=ok status=0; shift 2
  case " ${ONLY:-$name} " in *" ${name%%-*} "* | *" $name "*) ;; *) return ;; esac
  [ "$limit" -lt $((end - SECONDS)) ] || limit=$((end - SECONDS))
  if [ "$limit" -lt 1 ]; then
    said="no time left" bad=1
    : >"$out/$name.txt"
  else
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.log" || status=$?
    [ "$status" = 0 ] || { bad=1 said="FAILED ($status)"; }
    [ "$status" != 124 ] && [ "$status" != 137 ] || said="FAILED (over $limit s)"
  fi
  echo "gpu.sh: $name: $said, $((SECONDS - began)) s" >&2
  rows+=("| $name | $said | $((SECONDS - began)) | \`$(basename "$1") ${*:2}\` |")
  steps+=("$name")
  report
}

leave_out() { rows+=("| $1 | left out: $2 | | |"); }

report() {
  local name
  {
    printf '# On %s\n\n%s\n\n| step | outcome | s | command |\n|---|---|---|---|\n' \
      "$device" "$(date -u '+%Y-%m-%d %H:%M UTC')"
    printf '%s\n' "${rows[@]}"
    for name in "${steps[@]}"; do
      printf '\n## %s\n\n```\n' "$name"
      tail -c 12000 "$out/$name.txt"
      if ! [ -s "$out/$name.txt" ]; then tail -n 15 "$out/$name.log" 2>/dev/null; fi
      printf '```\n'
    done
  } | sed "/install tensorboardX/d; s#$PWD/##g; s#$out/##g" >"$out/report.md"
}

here() {  # what this machine is
  "$py" -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__)'
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
  grep -m 1 '^model name' /proc/cpuinfo | sed 's/.*: //'
  git rev-parse HEAD 2>/dev/null
  "$py" -m fairseq_steady check
}

prepare() {  # data, and models where none are given
  set -e
  local made="$py scripts/benchmarks/random_model.py"
  "$py" scripts/make_acceptability.py "$out/data"
  cut -f 4 "$out/data/in_domain_train.tsv" >"$out/sentences.txt"
  head -n 200 "$out/sentences.txt" >"$out/some.txt"
  rm -rf "$out/encoder" "$out/bart"
  [ -n "${MODEL:-}" ] || $made "$out/encoder" "$out/sentences.txt" $encoder
  [ -n "${BART:-}" ] || $made "$out/bart" "$out/sentences.txt" --family bart $summariser
}
# In a process of their own, so that a limit can end them.
export -f here prepare
export py out MODEL="${MODEL:-}" BART="${BART:-}"

b=scripts/benchmarks jobs=1 of=""
if [ "$device" = cuda ]; then
  export encoder="" summariser="--layers 6 --types 50264"
  jobs=6 rounds=10 updates=8 size="" cnndm="" deberta=""
else  # a few minutes of one core
  export encoder="--layers 2 --width 128 --types 2000"
  export summariser="--layers 1 --width 64 --types 2000"
  rounds=2 updates=3 size="512 5000"
  deberta="--layers 1 --width 64 --rounds 2 --form v3 --length 128 --which both"
  cnndm="--source 128 --target 32 --sentences 4" of="--methods plain r3f smart"
fi
model=${MODEL:-$out/encoder} bart=${BART:-$out/bart} text=$out/sentences.txt

step here 60 bash -c here
step prepare 90 bash -c prepare
if [ "$device" = cpu ]; then leave_out tests "they want a GPU"
elif ! has pytest; then leave_out tests "pytest is not installed"
else  # its own limit, so that it says what has failed until then
  marked=$(grep -l 'pytest.mark.gpu' tests/test_*.py)
  step tests 170 "$py" -m pytest -p no:cacheprovider -m 'gpu and not slow' --tb=short \
    --session-timeout=120 $marked
fi
step methods 90 "$py" $b/methods.py "$model" "$text" --rounds $rounds --device "$device"
step runs-precisions 150 "$py" $b/runs.py precisions "$model" "$out/data" "$out/precisions" \
  --device "$device" --updates $updates --jobs $jobs $of
step runs-speed 150 "$py" $b/runs.py precisions "$model" "$out/data" "$out/speed" \
  --device "$device" --updates $((2 * updates)) --methods plain smart
step runs-summaries 90 "$py" $b/runs.py summaries "$bart" "$text" "$out/summaries" \
  --device "$device" --updates $updates $cnndm
step runs-workers 90 "$py" $b/runs.py workers "$model" "$out/data" "$out/workers" \
  --device "$device" --updates $updates --jobs $jobs $of
step memory 60 "$py" $b/memory.py $size --device "$device"
step padding 60 "$py" $b/padding.py "$model" "$text" --rounds $rounds --device "$device"
step optimizers 60 "$py" $b/optimizers.py --rounds $rounds --device "$device"
if has transformers; then
  train="import fairseq_cli.train as t, fairseq_steady.tasks; t.cli_main()"
  step predict-train 60 "$py" -c "$train" "$out/data" --task cola --steady-model "$model" \
    --criterion plain --batch-size 32 --lr 1e-5 --max-update 3 --disable-validation \
    --save-dir "$out/trained" $([ "$device" = cuda ] || echo --cpu)
  step predict 60 "$py" $b/predict.py "$out/trained/checkpoint_last.pt" "$out/some.txt" --rounds 2
  step deberta 120 "$py" $b/deberta.py $deberta
else
  leave_out predict "transformers is not installed"
  leave_out deberta "transformers is not installed"
fi
report
echo "gpu.sh: $out/report.md" >&2
exit $bad
