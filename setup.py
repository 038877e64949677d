"""fairseq-steady: regularised fine-tuning of pretrained encoders in fairseq."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
#: The one place of the version.
INIT = (HERE / "user_dir" / "__init__.py").read_text("utf-8")
ROOMS = find_packages(str(HERE / "user_dir"))
#: What one command each needs, and is large: see commands/extras.py.
COMPARE = ["jinja2", "markupsafe", "matplotlib", "submitit"]
EXPORT = ["transformers"]

setup(
    name="fairseq-steady",
    version=re.findall(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)[0],
    description="Regularised fine-tuning as a fairseq user-dir plugin",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.15",
    package_dir={"fairseq_steady": "user_dir", "fairseq_steady.examples": "examples"},
    packages=[
        "fairseq_steady",
        *(f"fairseq_steady.{room}" for room in ROOMS),
        "fairseq_steady.examples",
    ],
    package_data={
        "": ["README.md"],
        "fairseq_steady": ["py.typed"],
        "fairseq_steady.comparison": ["*.css", "*.jinja", "*.js"],
        # For --config-dir "$(python -m fairseq_steady)/examples/hydra".
        "fairseq_steady.examples": ["*/*.yaml", "*/*/*.yaml"],
    },
    entry_points={"console_scripts": ["fairseq-steady = fairseq_steady.commands:main"]},
    install_requires=[
        "torch>=2.6",
        # Needs torch, cython, numpy and ninja before it builds, and then
        # --no-build-isolation: scripts/setup.sh does it in that order.
        "fairseq-fixed==0.12.3.1",
        "hydra-core",
        "numpy",
        "omegaconf",
        "protobuf",
        "psutil",
        "pydantic>=2.12",
        "pyyaml",
        "regex",
        "rich",
        "rouge-score",
        "safetensors",
        "scikit-learn>=1.8",
        "scipy",
        "sentencepiece",
        "tabulate",
        "tensorboard",
        "tokenizers",
        "typing_extensions>=4.13",
    ],
    extras_require={
        "compare": COMPARE,
        # What scripts/benchmarks/peers.py compares with.
        "benchmark": [*COMPARE, *EXPORT, "accelerate", "smart-pytorch"],
        "export": EXPORT,
        "dev": [
            *COMPARE,
            *EXPORT,
            "hypothesis",
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "statsmodels",
            # Tests interpret the kernel. torch's CUDA builds bring it, others do not;
            # it is made for Linux alone.
            "triton; platform_system == 'Linux'",
        ],
    },
)
