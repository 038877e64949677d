"""Fine-tuning by transformers' Trainer, for scripts/benchmarks/peers.py.

    python scripts/benchmarks/trainer.py MODEL DATA OUT --epochs 2

MODEL is a Hugging Face folder, DATA holds train.tsv and valid.tsv with columns text and
label. An epoch ends with an evaluation and a checkpoint. Prints seconds of training.
"""

import argparse
import csv
from pathlib import Path
from typing import Any


def rows(path: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """Tokenised sentences with labels."""
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    encoded = tokenizer([row["text"] for row in found], truncation=True)
    return [
        {**{name: encoded[name][i] for name in encoded}, "labels": int(row["label"])}
        for i, row in enumerate(found)
    ]


def accuracy(predicted: Any) -> dict[str, float]:
    """Share of right answers."""
    right = predicted.predictions.argmax(-1) == predicted.label_ids
    return {"accuracy": float(right.mean())}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--warmup", type=int, default=0, help="updates")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=2, attn_implementation="sdpa"
    )
    settings = transformers.TrainingArguments(
        output_dir=str(args.out),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        learning_rate=args.lr,
        warmup_steps=args.warmup,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        use_cpu=args.device == "cpu",
        dataloader_pin_memory=args.device != "cpu",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model,
        settings,
        transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=rows(args.data / "train.tsv", tokenizer),
        eval_dataset=rows(args.data / "valid.tsv", tokenizer),
        compute_metrics=accuracy,
    )
    print(f"done training in {trainer.train().metrics['train_runtime']} seconds")


if __name__ == "__main__":
    main()
