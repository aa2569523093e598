"""Does the pack's core work on the oldest and the newest torch that users have?

    python tools/compat.py [resolve] [oldest] [newest]

`resolve` asks pip, without installing, whether the test requirements fit Python 3.10 and 3.13. `oldest` and `newest`
each make a throw-away environment, import every module of `acestep_models` there and make one tiny song.

The newest torch is whatever pip finds; set TORCH_SPEC (for example `torch==2.13.0`) to say otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.13")
SHOWN = ("torch", "transformers", "tokenizers", "numpy", "diffusers", "pytest")


@dataclass(frozen=True)
class Surroundings:
    """One combination of packages that a user's ComfyUI may bring."""

    name: str
    packages: tuple[str, ...]


SURROUNDINGS = {
    "oldest": Surroundings("oldest", ("torch==2.4.*", "transformers==4.50.*", "numpy==1.26.*")),
    "newest": Surroundings("newest", (os.environ.get("TORCH_SPEC", "torch"), "transformers>=5", "numpy>=2")),
}
# What ComfyUI brings besides; never torchaudio, so that the core is known to do without it.
ALWAYS = ("safetensors", "tokenizers", "einops")


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run to the end; what it printed is shown only if it failed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def resolve(version: str) -> None:
    """Print what pip would install of tests/requirements.txt for Python `version`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        wheels = ("--only-binary=:all:", "--python-version", version, "--target", Path(folder) / "site")
        pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
        run(*pip, "--dry-run", "--ignore-installed", *wheels, "--report", report, "-r", "tests/requirements.txt")
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in items}
    print(f"Python {version}: {len(found)} packages resolve;", ", ".join(f"{name} {found[name]}" for name in SHOWN))


def find_python() -> str:
    """An interpreter of Python 3.11, else the one that runs this."""
    check = "import sys; sys.exit(sys.version_info[:2] != (3, 11))"
    for candidate in (sys.executable, "python3.11", "python3"):
        try:
            if subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
                return candidate
        except OSError:
            continue
    return sys.executable


def try_song(surroundings: Surroundings) -> None:
    """A fresh environment, every import, one song."""
    with tempfile.TemporaryDirectory(prefix=f"acestep-{surroundings.name}-") as folder:
        start = time.monotonic()
        run(find_python(), "-m", "venv", folder)
        python = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
        run(*pip, *surroundings.packages, *ALWAYS)
        print(f"{surroundings.name}: installed in {time.monotonic() - start:.0f} s", flush=True)
        song = (str(python), "-W", "ignore::UserWarning", str(ROOT / "tools" / "compat_song.py"))
        if subprocess.run(song, cwd=folder).returncode:
            raise SystemExit(f"{surroundings.name}: failed")


def main(names: list[str]) -> None:
    """Everything, or what is named."""
    wanted = names or ["resolve", *SURROUNDINGS]
    if unknown := set(wanted) - {"resolve", *SURROUNDINGS}:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}. Choose from: resolve, {', '.join(SURROUNDINGS)}")
    for name in wanted:
        if name == "resolve":
            for version in PYTHONS:
                resolve(version)
        else:
            try_song(SURROUNDINGS[name])
    print("compat: all passed")


if __name__ == "__main__":
    main(sys.argv[1:])
