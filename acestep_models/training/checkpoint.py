"""Checkpoints of a run: each a PEFT folder that is a usable adapter by itself, with what the loop needs to go on.

checkpoints/step_000100/ holds adapter_config.json and adapter_model.safetensors (what was validated, in fp32: the
parameters, or with ema their running average), state.pt (moments of the optimizer, counters, and with ema the
parameters as they are trained) and checkpoint.json (size and hash of each file, written last). A folder whose files do
not match is passed over (spec/lora.md §4.2). `latest` names the newest for people; nothing here reads it.
"""

from __future__ import annotations

import json
import math
import pickle
import re
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
from .files import listed, new_folder, remove_drafts, remove_folder, sync_file, what_differs, write_text

FOLDER, LATEST, LIST, STATE = "checkpoints", "latest", "checkpoint.json", "state.pt"
KIND = "kind"  # of the optimizer, beside its state
_NAME = re.compile(r"step_(\d{6,})")
_SIZE = "d"  # Prodigy's, in its group of parameters


@dataclass(frozen=True)
class Counters:
    """The plain numbers of a run after `step` steps.

    Attributes:
        average: the smoothed loss, None before the first.
        heard: losses that the average is of.
        bad: steps in a row whose loss or gradient was not a number.
        skipped: all of those.
        first, last: the validation loss before the first step, or when it was first asked for, and when it was measured
            last; None where it was not, or was no finite number.
        measured: the step after which `last` was.
    """

    step: int = 0
    average: float | None = None
    heard: int = 0
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
    """A checkpoint that was read: the folder, and everything but the adapter.

    Attributes:
        parameters: as they are trained, where the adapter is their average; else None.
    """

    folder: Path
    counters: Counters
    optimizer: dict[str, Any]
    parameters: dict[str, Tensor] | None


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def save(
        self,
        adapter: Adapter,
        counters: Counters,
        optimizer: Mapping[str, Any],
        parameters: Mapping[str, Tensor] | None,
        say: Callable[[str], None],
    ) -> Path:
        """Write the checkpoint of a step, whole or not at all.

        Args:
            parameters: as they are trained, where the adapter is their average; else None.
            say: is told in a sentence if `latest` could not be written, which no run needs.

        Raises:
            ACEStepError: if the disk is full or cannot be written; the older checkpoints are as they were.
        """
        path = self.folder / f"step_{counters.step:06d}"
        state = {"counters": asdict(counters), "optimizer": _on_cpu(optimizer), "parameters": _on_cpu(parameters)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with new_folder(path) as draft:
                write_adapter(adapter, draft, "peft")
                torch.save(state, draft / STATE)
                sync_file(draft / STATE)
                write_text(draft / LIST, json.dumps(_contents(draft, counters), indent=2))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ACEStepError(self._unwritten(counters.step, error)) from error
        try:
            write_text(self.folder / LATEST, path.name)
        except OSError as error:
            say(f"{self.folder / LATEST} could not be written ({error}): it may name an older checkpoint.")
        return path

    def newest(self, say: Callable[[str], None]) -> Saved | None:
        """The last whole checkpoint; each broken one that comes after it is named in a sentence."""
        if not self.folder.is_dir():
            return None
        remove_drafts(self.folder)
        for path in reversed(self._all()):
            found = _what_is_wrong(path) or _read(path)
            if isinstance(found, Saved):
                return found
            say(f"{path} is not whole ({found}): it is passed over.")
        return None

    def prune(self, step: int, keep: int) -> None:
        """Keep the newest `keep` up to `step` and the one with the best validation loss."""
        best = self.best(step)
        for path in self._until(step)[:-keep]:
            if best is None or path != best[0]:
                remove_folder(path)

    def best(self, step: int) -> tuple[Path, float] | None:
        """The checkpoint up to `step` with the lowest validation loss, and that; of equals the newest."""
        losses = {path: loss for path in self._until(step) if (loss := _validation(path)) is not None}
        best = min(losses, key=lambda path: (losses[path], -_step(path)), default=None)
        return None if best is None else (best, losses[best])

    def _until(self, step: int) -> list[Path]:
        return [path for path in self._all() if _step(path) <= step]

    def _all(self) -> list[Path]:
        """By step, whole or not."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)

    def _unwritten(self, step: int, error: BaseException) -> str:
        older = [path.name for path in self._all() if _what_is_wrong(path) is None]
        rest = f"The run can go on from {older[-1]}" if older else "There is no older one"
        return (
            f"{self.folder}: the checkpoint of step {step} could not be written ({error}). {rest}: make room on that "
            "disk or choose another output folder, then run it again with the same name."
        )


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer, and whose it is."""
    return {KIND: type(optimizer).__name__, **optimizer.state_dict()}


def load_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], where: str = "the checkpoint") -> None:
    """Go on with saved moments, computed in the way that was chosen for this device, not for the one of the file.

    Raises:
        ValueError: if they are another optimizer's, or of other parameters.
    """
    name = type(optimizer).__name__
    own = optimizer.state_dict()["param_groups"]
    kind = saved.get(KIND, name)
    try:
        fits = all(
            len(ours["params"]) == len(theirs["params"]) and (_SIZE in ours) == (_SIZE in theirs)
            for ours, theirs in zip(own, saved["param_groups"], strict=True)
        )
    except (KeyError, TypeError, ValueError):
        fits = False
    if kind != name or not fits:
        raise ValueError(
            f"{where}: it has the state of {'another optimizer' if kind == name else kind}, or of other layers, but "
            f"the run goes on with {name}. Choose another name, or set optimizer back to what it was"
        )
    groups = [
        {**said, **{name: own[name] for name in ("fused", "foreach") if name in own}}
        for said, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def _contents(folder: Path, counters: Counters) -> dict[str, Any]:
    names = sorted(path.name for path in folder.iterdir())
    return {"step": counters.step, "validation": _finite(counters.validation), "files": listed(folder, names)}


def _what_is_wrong(path: Path) -> str | None:
    """Why a checkpoint cannot be used, None where it can."""
    try:
        files = json.loads((path / LIST).read_text(encoding="utf-8"))["files"]
        wrong = what_differs(path, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return wrong or (None if STATE in files else f"no {STATE}")


def _read(path: Path) -> Saved | str:
    """The checkpoint, or what its state lacks."""
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        return Saved(path, Counters(**state["counters"]), state["optimizer"], state["parameters"])
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        return f"{STATE}: {type(error).__name__}: {error}"


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else -1


def _validation(path: Path) -> float | None:
    try:
        value = json.loads((path / LIST).read_text(encoding="utf-8"))["validation"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _finite(value)


def _finite(value: Any) -> float | None:
    """None for what is no number, or NaN or infinite: JSON has no word for it, and it is no best."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _on_cpu(value: Any) -> Any:
    """The same dicts and lists with every tensor on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(inner) for inner in value)
    return value
