"""Adapters where ComfyUI keeps LoRAs: names for the widgets, paths, and what they hold, parsed once a file state.

A PEFT folder is one entry: the file in it says nothing of its strength without the config beside it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import folder_paths

from ...acestep_models.adapters.files import Adapter, read_adapter
from . import folders

LORAS = "loras"
EMPTY = "(no LoRA found: put one into models/loras)"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEPT = 4  # adapters that stay parsed: as many as one usually tries in turn


def lora_names() -> list[str]:
    """Whatever an adapter can be chosen from, or one line that says what to do where there is nothing."""
    names = folders.weight_names(LORAS)
    peft = {name: folder for name in names if (folder := _peft_folder(name))}
    return [*(name for name in names if name not in peft), *sorted(set(peft.values()))] or [EMPTY]


def _peft_folder(name: str) -> str | None:
    """The folder that a file of the list stands for, if it is half of a PEFT folder."""
    folder, _, file = name.replace(os.sep, "/").rpartition("/")
    if file != WEIGHTS or not folder:
        return None
    return folder if folder_paths.get_full_path(LORAS, f"{folder}/{CONFIG}") else None


def lora_path(name: str, socket: str = "lora") -> Path:
    """Path of an entry of `lora_names`; `socket` is the widget it was chosen in.

    Raises:
        ValueError: for a name that is not there (any more); names what is there.
    """
    inside = f"{name}/{WEIGHTS}"
    if _peft_folder(inside) and (weights := folder_paths.get_full_path(LORAS, inside)):
        return Path(weights).parent
    path = folder_paths.get_full_path(LORAS, name)
    if path is None or name not in folders.weight_names(LORAS):
        there = ", ".join(found for found in lora_names() if found != EMPTY) or "nothing"
        raise ValueError(
            f"{socket}: {name!r} is not in {folders.places(LORAS)} (there: {there}); put a .safetensors file or a PEFT "
            "folder there, and reload the page"
        )
    return Path(path)


def lora_stamp(name: str) -> str:
    """Changes when any file of an entry does; cheap. An entry that is missing only has its name."""
    try:
        return _stamp(lora_path(name))
    except ValueError:
        return f"{name} is not there"


def _stamp(path: Path) -> str:
    """The states of the files that `read_adapter` looks at: weights, and the config in their folder."""
    files = (path / WEIGHTS, path / CONFIG) if path.is_dir() else (path, path.with_name(CONFIG))
    return "|".join(map(folders.stamp, files))


class ParsedAdapters:
    """What files hold, read once a state of the file; the adapters used last, at most `bound` of them."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._read: OrderedDict[tuple[Path, float | None], tuple[str, Adapter]] = OrderedDict()

    def get(self, path: Path, alpha: float | None) -> Adapter:
        """The adapter at `path`; that of an earlier state of its files is forgotten."""
        key, stamp = (path, alpha), _stamp(path)
        known, adapter = self._read.pop(key, ("", None))
        if adapter is None or known != stamp:
            adapter = read_adapter(path, alpha)
        self._read[key] = (stamp, adapter)
        while len(self._read) > self._bound:
            self._read.popitem(last=False)
        return adapter


PARSED = ParsedAdapters(KEPT)


def load_lora(name: str, alpha: float | None = None) -> Adapter:
    """The adapter of an entry; `alpha` counts where its files say none.

    Raises:
        ValueError: for an entry that is missing, or a file that holds no adapter for ACE-Step 1.5.
    """
    return PARSED.get(lora_path(name), alpha)
