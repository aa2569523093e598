"""Checkpoints of a run: each a PEFT folder that is a usable adapter by itself, with what the loop needs to go on.

checkpoints/step_000100/ holds adapter_config.json and adapter_model.safetensors (the fp32 parameters as they are
trained), state.pt (moments of the optimizer, the running average, counters) and checkpoint.json (size and hash of each
file, written last). A folder whose files do not match is passed over (spec/lora.md §4.2).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..adapters.adapter import Adapter
from ..adapters.write import write_adapter
from ..errors import ACEStepError
from .files import new_folder, remove_drafts, sha256, sync_file, write_text

FOLDER, LATEST, LIST, STATE = "checkpoints", "latest", "checkpoint.json", "state.pt"
_NAME = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True)
class Counters:
    """The plain numbers of a run after `step` steps.

    Attributes:
        average: the smoothed loss, None before the first.
        bad: steps in a row whose loss or gradient was not a number.
        skipped: all of those.
        first, last: the validation loss before the first step and when it was measured last.
        measured: the step after which `last` was.
    """

    step: int = 0
    average: float | None = None
    bad: int = 0
    skipped: int = 0
    first: float | None = None
    last: float | None = None
    measured: int = -1

    @property
    def validation(self) -> float | None:
        """The validation loss of exactly these weights."""
        return self.last if self.measured == self.step else None


@dataclass(frozen=True, eq=False)
class Saved:
    """A checkpoint that was read: the folder, and everything but the adapter."""

    folder: Path
    counters: Counters
    optimizer: dict[str, Any]
    average: dict[str, Tensor] | None


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def save(
        self, adapter: Adapter, counters: Counters, optimizer: Mapping[str, Any], average: Mapping[str, Tensor] | None
    ) -> Path:
        """Write the checkpoint of a step, whole or not at all.

        Raises:
            ACEStepError: if the disk is full or cannot be written; the older checkpoints are as they were.
        """
        path = self.folder / f"step_{counters.step:06d}"
        state = {"counters": asdict(counters), "optimizer": _on_cpu(optimizer), "average": _on_cpu(average)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with new_folder(path) as draft:
                write_adapter(adapter, draft, "peft")
                torch.save(state, draft / STATE)
                sync_file(draft / STATE)
                write_text(draft / LIST, json.dumps(_contents(draft, counters), indent=2))
            write_text(self.folder / LATEST, path.name)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ACEStepError(self._unwritten(counters.step, error)) from error
        return path

    def newest(self, say: Callable[[str], None]) -> Saved | None:
        """The last whole checkpoint; each broken one that comes after it is named in a sentence."""
        if not self.folder.is_dir():
            return None
        remove_drafts(self.folder)
        for path in reversed(self._all()):
            wrong = _what_is_wrong(path)
            if wrong is None:
                return _read(path)
            say(f"{path} is not whole ({wrong}): it is passed over.")
        return None

    def prune(self, step: int, keep: int) -> None:
        """Keep the newest `keep` up to `step` and the one with the best validation loss."""
        known = [path for path in self._all() if _step(path) <= step]
        losses = {path: loss for path in known if (loss := _validation(path)) is not None}
        best = min(losses, key=lambda path: (losses[path], -_step(path)), default=None)
        for path in known[:-keep]:
            if path != best:
                shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> list[Path]:
        """By step, whole or not."""
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)

    def _unwritten(self, step: int, error: BaseException) -> str:
        older = [path.name for path in self._all() if _what_is_wrong(path) is None] if self.folder.is_dir() else []
        rest = f"The run can go on from {older[-1]}" if older else "There is no older one"
        return (
            f"{self.folder}: the checkpoint of step {step} could not be written ({error}). {rest}: make room on that "
            "disk or choose another output folder, then run it again with the same name."
        )


def _contents(folder: Path, counters: Counters) -> dict[str, Any]:
    names = sorted(path.name for path in folder.iterdir())
    files = {name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}
    return {"step": counters.step, "validation": counters.validation, "files": files}


def _what_is_wrong(path: Path) -> str | None:
    """Why a checkpoint cannot be used, None where it can."""
    try:
        files = json.loads((path / LIST).read_text(encoding="utf-8"))["files"]
        for name, said in files.items():
            if (path / name).stat().st_size != said["size"]:
                return f"{name} has another size than it was written with"
            if sha256(path / name) != said["sha256"]:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None if STATE in files else f"no {STATE}"


def _read(path: Path) -> Saved:
    state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    return Saved(path, Counters(**state["counters"]), state["optimizer"], state["average"])


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else -1


def _validation(path: Path) -> float | None:
    try:
        value = json.loads((path / LIST).read_text(encoding="utf-8"))["validation"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, (int, float)) else None


def _on_cpu(value: Any) -> Any:
    """The same dicts and lists with every tensor on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(inner) for inner in value)
    return value
