#!/usr/bin/env bash
# The standing table: 13 ways to fine-tune, tasks of few sentences, each method tuned with
# the same budget, then run with every seed. Run again, it fills gaps only.
#   bash examples/league/run.sh DATA MODEL OUT SEEDS...
# DATA holds glue, and for sst2 also uci and CAD. TASKS (sst2 stsb; mrpc rte cola), METHODS
# (all of them), UPDATES (96; cola 234) and JOBS (2) may be changed; MORE is added to every
# run's flags, as --steady-autocast bf16. UNTIL (none) adds seeds, up to so many, to methods
# that are not told from plain on test (compare --until-decided). EVERY (4) is how often
# methods with a divergence are applied, as many times as strongly; 1 is as published.
# First plain's learning rate is chosen among six; it is everybody's, but of the two whose
# optimizer is another. Then each method has six settings of its own, tried on the
# validation half with the seeds TUNING (101 102), which never count. Each run is evaluated
# once, at its end.
# Paths are those from the repository's folder, wherever this is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data=$1 model=$2 out=$3
shift 3
bin=$(dirname "${PYTHON:-.venv/bin/python}")
read -ra tuning <<<"${TUNING:-101 102}"
every=${EVERY:-4}
rates="--lr {5e-5,1e-4,1.5e-4,2e-4,3e-4,4e-4}"

# What a task is, beside its name: GLUE's, and how many training sentences.
task_flags() {
  case $1 in
    rte) echo "--glue-task rte" ;;
    cola) echo "--glue-task cola --steady-train-size 2500" ;;
    *) echo "--glue-task $1 --steady-train-size 1000" ;;
  esac
}

# Other domains' sentences, which the SST-2 models are tested on as well.
further() {
  local name also=() file
  for file in uci/{amazon_cells,imdb,yelp}_labelled.txt CAD/sentiment/{orig,new}/test.tsv; do
    [ -r "$data/$file" ] || { echo "error: $data/$file is not there" >&2; return 1; }
  done
  mkdir -p "$out/uci"
  for name in amazon_cells imdb yelp; do
    awk -F'\t' 'BEGIN {print "sentence,label"} {gsub("\"", "\"\"", $1); print "\"" $1 "\"," $NF}' \
      "$data/uci/${name}_labelled.txt" >"$out/uci/$name.csv"
    also+=("${name%_cells}=$out/uci/$name.csv")
  done
  also+=("original=$data/CAD/sentiment/orig/test.tsv" "revised=$data/CAD/sentiment/new/test.tsv")
  domains=(--steady-quoted-tsv --steady-also-labels Negative=0,Positive=1 --steady-max-length 128
    --steady-also "$(IFS=, && echo "${also[*]}")")
}

# Flags of a method at a learning rate, six settings of it.
method_flags() {
  local adam="--optimizer bert_adam --bert-adam-bias-correction" rate="--lr $2"
  case $1 in
    plain) echo "--criterion plain $adam $rate --dropout {0,0.1,0.2} --bert-adam-weight-decay {0.01,0.1}" ;;
    sift) echo "--criterion sift --sift-every $every $adam $rate --sift-lambda {1,2.5,5} --sift-step {0.05,0.2}" ;;
    smart) echo "--criterion smart --smart-every $every $adam $rate --smart-lambda {0.5,1,3} --smart-eps-relative {0.1,0.3}" ;;
    smart_teacher) echo "$(method_flags smart "$2") --smart-bregman momentum" ;;
    r3f) echo "--criterion r3f --r3f-every $every $adam $rate --r3f-lambda {0.5,1,3} --r3f-eps-relative {0.5,2}" ;;
    r4f) echo "--criterion r4f --r4f-every $every $adam $rate --r4f-lambda {0.5,1,3} --r4f-eps-relative {0.5,2}" ;;
    r_drop) echo "--criterion r_drop --r-drop-every $every $adam $rate --r-drop-lambda {0.25,0.5,1,2,4,8}" ;;
    hype) echo "--criterion hype $adam $rate --hype-eps-relative {0.003,0.01,0.03,0.1,0.2,0.3}" ;;
    freelb) echo "--criterion freelb $adam $rate --freelb-eps-relative {0.005,0.01,0.02,0.05,0.1,0.2}" ;;
    pats_adamax) echo "--criterion plain --optimizer pats_adamax --lr {2e-4,4e-4,8e-4} --pats-lambda {1e-6,1e-4}" ;;
    uncorrected) echo "--criterion plain --optimizer bert_adam --lr {1e-5,2e-5,5e-5,1e-4,2e-4,4e-4}" ;;
    reinit) echo "--criterion plain $adam $rate --steady-reinit-layers {1,2,3,4,5,6}" ;;
    noisytune) echo "--criterion plain $adam $rate --steady-noisytune {0.05,0.1,0.15,0.2,0.3,0.5}" ;;
    *) echo "error: there is no method '$1'" >&2; return 1 ;;
  esac
}

compare() {
  "$bin/fairseq-steady" compare --out "$1" --jobs "${JOBS:-2}" --tuning-seeds "${tuning[@]}" "${@:2}"
}

[[ " ${TASKS:-sst2 stsb} " != *" sst2 "* ]] || further
for task in ${TASKS:-sst2 stsb}; do
  more=()
  [ "$task" != sst2 ] || more=("${domains[@]}")
  updates=${UPDATES:-96}
  [ "$task" != cola ] || updates=${UPDATES:-234}
  read -ra flags <<<"$(task_flags "$task") ${MORE:-}"
  flags=("$data/glue" --user-dir user_dir --task glue "${flags[@]}" --steady-model "$model"
    --steady-split-dev --batch-size 32 --clip-norm 1 --max-update "$updates"
    --lr-scheduler polynomial_decay --warmup-updates $((updates / 10)) --validate-interval 1000)
  compare "$out/$task-rate" --seeds "$1" --methods \
    "plain=--criterion plain --optimizer bert_adam --bert-adam-bias-correction $rates" \
    -- "${flags[@]}" --valid-subset valid
  rate=$(sed -n 's/.*--lr \([0-9.e-]*\),.*,yes.*/\1/p' "$out/$task-rate/tuning.csv")
  methods=()
  for name in ${METHODS:-plain sift smart smart_teacher r3f r4f r_drop hype freelb pats_adamax uncorrected reinit noisytune}; do
    methods+=("$name=$(method_flags "$name" "$rate")")
  done
  compare "$out/$task" --seeds "$@" ${UNTIL:+--until-decided test --at-most "$UNTIL"} \
    --methods "${methods[@]}" \
    -- "${flags[@]}" --valid-subset valid,test ${more[@]+"${more[@]}"}
done
