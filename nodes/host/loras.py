"""Adapters where ComfyUI keeps LoRAs: names for the widgets, paths, and what they hold, parsed once a file state.

A PEFT folder is one entry: the file in it says nothing of its strength without the config beside it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...acestep_models.adapters.files import Adapter, read_adapter
from ...acestep_models.adapters.source import CONFIG, WEIGHTS
from . import folders

LORAS = "loras"
EMPTY = "(no LoRA found: put one into models/loras)"
KEPT_BYTES = 512 * 1024**2  # of adapters that stay parsed: a few of those that one tries in turn


def lora_names() -> list[str]:
    """Whatever an adapter can be chosen from, or one line that says what to do where there is nothing."""
    peft = _peft_folders()
    inside = {folder / WEIGHTS for folder in peft.values()}
    alone = (name for name in folders.weight_names(LORAS) if _file(name) not in inside)
    return [*alone, *sorted(peft)] or [EMPTY]


def _file(name: str) -> Path | None:
    path = folder_paths.get_full_path(LORAS, name)
    return None if path is None else Path(path)


def _peft_folders() -> dict[str, Path]:
    """Folders that have weights and the config for them, by name: of several of a name the host's first whole one."""
    names = (name.replace(os.sep, "/").rpartition("/") for name in folders.weight_names(LORAS))
    roots = [Path(root) for root in folder_paths.get_folder_paths(LORAS)]
    found: dict[str, Path] = {}
    for folder, _, file in names:
        whole = (root / folder for root in roots if all((root / folder / half).is_file() for half in (WEIGHTS, CONFIG)))
        if file == WEIGHTS and folder and (place := next(whole, None)):
            found[folder] = place
    return found


def lora_path(name: str, socket: str = "lora") -> Path:
    """Path of an entry of `lora_names`; `socket` is the widget it was chosen in.

    Raises:
        ValueError: for a name that is not there (any more); names what is there.
        TypeError: for what is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"{socket}: expected the name of a LoRA as text, got {name!r}; choose one of the list")
    if folder := _peft_folders().get(name):
        return folder
    path = _file(name)
    if path is None or name not in folders.weight_names(LORAS):
        raise ValueError(
            f"{socket}: {name!r} is not in {folders.places(LORAS)} ({_there(name)}); put a .safetensors file or a PEFT "
            "folder there, and reload the page"
        )
    return path


def _there(name: str) -> str:
    """What may have been meant: the entries that are most like a name."""
    return folders.nearest(name, [found for found in lora_names() if found != EMPTY])


def lora_stamp(name: str) -> str:
    """Changes when any file of an entry does; cheap. An entry that is missing only has its name."""
    try:
        return _stamp(lora_path(name))
    except (ValueError, TypeError):
        return f"{name} is not there"


def _stamp(path: Path) -> str:
    """The states of the files that `read_adapter` looks at: weights, the config in their folder, and their neighbours.

    A config is that of a file only as long as no other weights lie there.
    """
    weights = _weights(path)
    return "|".join((*map(folders.stamp, (weights, weights.with_name(CONFIG))), *_neighbours(weights.parent)))


def _weights(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


def _neighbours(folder: Path) -> list[str]:
    """Names of the weight files of a folder, sorted; none where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.lower().endswith(folders.WEIGHT_SUFFIXES))
    except OSError:
        return []


@dataclass(frozen=True)
class _Parsed:
    """What a file held in a state, read with an alpha of the user; `size` in bytes is that of the file."""

    stamp: str
    alpha: float | None
    adapter: Adapter
    size: int


class ParsedAdapters:
    """What files hold, read once a state of the file; the adapters used last, at most `bound` bytes of them."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._read: OrderedDict[Path, _Parsed] = OrderedDict()

    def get(self, path: Path, alpha: float | None) -> Adapter:
        """The adapter at `path`; that of an earlier state of its files, or of another alpha, is forgotten."""
        stamp, known = _stamp(path), self._read.pop(path, None)
        if known is None or (known.stamp, known.alpha) != (stamp, alpha):
            del known  # else both would be in memory
            adapter = read_adapter(path, alpha)
            known = _Parsed(stamp, alpha, adapter, _weights(path).stat().st_size)
        self._read[path] = known
        while sum(one.size for one in self._read.values()) > self._bound:
            self._read.popitem(last=False)
        return known.adapter


# One for the process: a node of ComfyUI's V3 API is a class that keeps nothing between runs, and an adapter belongs to
# no model that could carry it, so a strength that is tried out would read the file anew each time.
PARSED = ParsedAdapters(KEPT_BYTES)


def load_lora(name: str, alpha: float | None = None) -> Adapter:
    """The adapter of an entry; `alpha` counts where its files say none.

    Raises:
        ValueError: for an entry that is missing, or a file that holds no adapter for ACE-Step 1.5.
    """
    return PARSED.get(lora_path(name), alpha)
