"""Methods x seeds through fairseq-train: plan, run, judge, show."""
