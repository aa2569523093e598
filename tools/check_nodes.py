"""mypy over nodes/, which imports its neighbour acestep_models/ relatively.

    python tools/check_nodes.py

ComfyUI makes one package of the whole folder, whatever the folder is called; mypy only takes names that are valid in
Python. So it is given a copy under such a name.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / ".cache" / "types" / "pack"
PARTS = ("acestep_models", "nodes")


def copy_sources() -> None:
    """A fresh copy; times are kept, so that mypy's own cache stays valid."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    shutil.copy2(ROOT / "__init__.py", COPY)
    for part in PARTS:
        shutil.copytree(ROOT / part, COPY / part, ignore=shutil.ignore_patterns("__pycache__"))


def main() -> int:
    """The exit status of mypy."""
    copy_sources()
    options = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(COPY.parent / "cache"))
    targets = ("pack/__init__.py", "pack/nodes")
    return subprocess.run([sys.executable, "-m", "mypy", *options, *targets], cwd=COPY.parent).returncode


if __name__ == "__main__":
    sys.exit(main())
