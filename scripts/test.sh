#!/usr/bin/env bash
# Set up and pass every test: lint, types, tests. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --quiet --check .
.venv/bin/mypy --no-error-summary
exec .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
