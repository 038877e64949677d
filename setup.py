"""fairseq-steady: regularised fine-tuning of pretrained encoders in fairseq."""

from pathlib import Path

from setuptools import setup

PACKAGES = [
    "",
    "commands",
    "comparison",
    "criterions",
    "data",
    "huggingface",
    "inference",
    "models",
    "optim",
    "optimizers",
    "patches",
    "regularizers",
    "scores",
    "tasks",
]

setup(
    name="fairseq-steady",
    version="0.2.0",
    description="Regularised fine-tuning as a fairseq user-dir plugin",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    package_dir={"fairseq_steady": "user_dir"},
    packages=[f"fairseq_steady.{p}" if p else "fairseq_steady" for p in PACKAGES],
    package_data={"fairseq_steady": ["py.typed"]},
    entry_points={"console_scripts": ["fairseq-steady = fairseq_steady.commands:main"]},
    install_requires=[
        "torch>=2.6",
        # Needs torch, cython, numpy and ninja before it builds, and then
        # --no-build-isolation: scripts/setup.sh does it in that order.
        "fairseq-fixed==0.12.3.1",
        "numpy",
        "protobuf",
        "psutil",
        "pydantic>=2.12",
        "rouge-score",
        "safetensors",
        "scikit-learn",
        "scipy",
        "sentencepiece",
        "tensorboard",
        "tokenizers",
        "typing_extensions>=4.13",
    ],
    extras_require={
        "compare": ["matplotlib", "rich", "statsmodels", "submitit", "tabulate"],
        "export": ["transformers"],
        "dev": [
            "hypothesis",
            "matplotlib",
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "rich",
            "ruff",
            "statsmodels",
            "submitit",
            "tabulate",
            "transformers",
        ],
    },
)
