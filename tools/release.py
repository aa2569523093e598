"""Freeze a release: its schemas and its workflows are kept, and every later version must still take them.

    python tools/release.py

reads the version from pyproject.toml and writes tests/released/VERSION.json (the recorded schema of every node) and
tests/workflows/VERSION/ (a copy of every shipped workflow and of its API twin). Run it when `make test` is green and
the changelog has a heading for the version; tests/host/test_released.py then holds the promise.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version() -> str:
    """What pyproject.toml calls this version."""
    found = re.search(r'^version = "(\d+\.\d+\.\d+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    if not found:
        raise SystemExit('pyproject.toml: expected a line such as version = "0.1.0"')
    return found[1]


def freeze(number: str) -> list[Path]:
    """Write the schemas and workflows of this version, once: what was released does not change any more."""
    if f"## [{number}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise SystemExit(f"CHANGELOG.md: expected a heading ## [{number}] - DATE")
    frozen = ROOT / "tests/released" / f"{number}.json"
    if frozen.exists():
        raise SystemExit(f"{number} is frozen already; give the new version a number of its own in pyproject.toml")
    files = sorted((ROOT / "tests/host/schemas").glob("*.json"))
    schemas = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    frozen.parent.mkdir(exist_ok=True)
    frozen.write_text(json.dumps(schemas, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    folder = ROOT / "tests/workflows" / number
    (folder / "api").mkdir(parents=True)
    shipped = [*(ROOT / "workflows").glob("*.json"), *(ROOT / "workflows/api").glob("*.json")]
    return [frozen, *(Path(shutil.copy(file, folder / file.relative_to(ROOT / "workflows"))) for file in shipped)]


if __name__ == "__main__":
    written = freeze(version())
    sys.stdout.write(f"{version()}: {len(written)} files\n")
