#!/usr/bin/env bash
# DialogSum with BERT2BERT: lead-1, lead-3 and a random training summary, plain with three
# times the updates, plain, r3f, r_drop, and r3f at a radius that counts, three seeds each;
# ROUGE of the test set against its three references. Run again, it fills gaps only.
#   bash examples/summarization/dialogsum.sh DATA ENCODER OUT UPDATES
# DATA is what get-data dialogsum gives (or, with FORM=scitldr, get-data scitldr), ENCODER
# a model directory of a BERT or RoBERTa. METHODS are which of plain, plain3x, r3f, r3f-far
# and r_drop are run (all).
# START is the cross-attention's (self), TABLES --separate-embeddings or nothing, FAST the
# scale of new parts' rate (5), RATE the rate (2e-4), LENGTH the tokens kept of a dialogue
# (256), BATCH its size (16), WARM the share of updates over which lambda rises (0.5; under
# a divergence from the first one the decoder may learn nothing), SEEDS (1 2 3), JOBS runs
# at a time (2), MORE further flags, as --steady-autocast bf16. Each run is evaluated once,
# at its end, by the summaries of DECODE (500: all) validation dialogues.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 encoder=$2 out=$3 updates=$4
bin=$(dirname "${PYTHON:-.venv/bin/python}")
read -ra seeds <<<"${SEEDS:-1 2 3}"
read -ra tables <<<"${TABLES:-}"
read -ra more <<<"${MORE:-}"
warm=${WARM:-0.5}
model=$out/model form=${FORM:-dialogsum}
case $form in
  dialogsum)
    test=$data/dialogsum.test.jsonl train=$data/dialogsum.train.jsonl source=dialogue
    target=summary references=summary1,summary2,summary3 how=mean cut=96 longest=80 ;;
  scitldr)
    test=$data/test.jsonl train=$data/train.jsonl source=source
    target=target references=target how=best cut=48 longest=30 ;;
  *) echo "error: FORM $form is neither dialogsum nor scitldr" >&2; exit 1 ;;
esac
read -ra names <<<"${METHODS:-plain plain3x r3f r3f-far r_drop}"
mkdir -p "$out"
# What the model is made from, so that it is never taken for another one.
made="ENCODER $encoder, START ${START:-self}, TABLES ${TABLES:-}"
if [ ! -f "$model/manifest.json" ]; then
  echo "$made" >"$out/model.txt"
  "$bin/fairseq-steady" import "$encoder" "$model" --bert2bert \
    --cross-attention "${START:-self}" ${tables[@]+"${tables[@]}"}
elif [ "$(cat "$out/model.txt" 2>&1)" != "$made" ]; then
  echo "error: $out/model.txt does not say '$made' of $model: name another OUT" >&2
  exit 1
fi

# This many times UPDATES, a tenth of them warm-up, then linear decay.
length() { echo "--max-update $(($1 * updates)) --warmup-updates $(($1 * updates / 10))"; }
flags() {
  case $1 in
    plain) echo "--criterion plain $(length 1)" ;;
    plain3x) echo "--criterion plain $(length 3)" ;;
    r3f) echo "--criterion r3f --r3f-eps 1e-5 --r3f-warmup $warm $(length 1)" ;;
    r3f-far) echo "--criterion r3f --r3f-eps 0.1 --r3f-lambda 0.1 --r3f-warmup $warm $(length 1)" ;;
    r_drop) echo "--criterion r_drop --r-drop-warmup $warm $(length 1)" ;;
    *) echo "error: there is no method '$1'" >&2; return 1 ;;
  esac
}
methods=()
for name in "${names[@]}"; do
  said=$(flags "$name")
  methods+=("$name=$said")
done
"$bin/fairseq-steady" compare --out "$out" --jobs "${JOBS:-2}" --seeds "${seeds[@]}" \
  --keep --methods "${methods[@]}" \
  -- "$data" --user-dir user_dir --task summarization --summarization-form "$form" \
  --summarization-source-length "${LENGTH:-256}" --summarization-target-length "$cut" \
  --summarization-max-length "$longest" --steady-model "$model" --label-smoothing 0.1 \
  --batch-size "${BATCH:-16}" --clip-norm 1 --optimizer bert_adam \
  --bert-adam-bias-correction --lr-scheduler polynomial_decay \
  --lr "${RATE:-2e-4}" --steady-new-lr-scale "${FAST:-5}" \
  --summarization-decode "${DECODE:-500}" --validate-interval 1000 \
  --valid-subset valid ${more[@]+"${more[@]}"}

# NAME FILE FLAGS: a file of summaries, whole or not there, and not older than FILE, which
# they are made with.
summarise() {
  if [ "$out/$1.txt" -nt "$2" ] && [ "$out/$1.txt" -nt "$test" ]; then return; fi
  local part=$out/$1.$$.part
  "$bin/fairseq-steady" summarize "${@:3}" "$test" --column "$source" >"$part"
  mv "$part" "$out/$1.txt"
}
# JOBS models at a time write, each with its share of the cores; one that fails ends all.
end() {
  local job
  for job in $(jobs -rp); do pkill -P "$job" || kill "$job" || true; done 2>/dev/null
  rm -f "$out"/*.$$.part
}
trap end EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + ${JOBS:-2} - 1) / ${JOBS:-2}))}
free() { while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do wait -n; done; }
summarise lead1 "$test" --lead 1
summarise lead3 "$test" --lead 3
summarise random "$train" --random "$train" --summary-column "$target"
written=(lead1 lead3 random) decoding=()
for name in "${names[@]}"; do
  for seed in "${seeds[@]}"; do
    best=$out/$name/seed$seed/checkpoint_best.pt
    free
    summarise "$name-$seed" "$best" --model "$model" "$best" &
    decoding+=($!)
    written+=("$name-$seed")
  done
done
for process in "${decoding[@]}"; do wait "$process"; done
# Each method is set against plain of the same seed, article by article.
for name in "${written[@]}"; do
  echo "$name"
  plain=$out/plain-${name##*-}.txt against=()
  if [ -s "$plain" ] && [ "$plain" != "$out/$name.txt" ]; then against=(--against "$plain"); fi
  "$bin/fairseq-steady" rouge "$out/$name.txt" "$test" --references "$how" \
    --column "$references" --source-column "$source" \
    ${BERTSCORE:+--bertscore "$BERTSCORE"} ${against[@]+"${against[@]}"}
done | tee "$out/rouge.txt"
