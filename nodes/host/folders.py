"""Where ComfyUI keeps models, extra model paths included: names for the widgets, paths for the loader."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

AUTO = "auto"
EMPTY = "(no model found: put one into models/diffusion_models)"
SOURCE = "Comfy-Org/ace_step_1.5_ComfyUI_files"
_WEIGHTS = (".safetensors", ".sft")
_DEPTH = 2


def model_names() -> list[str]:
    """Weight files of `diffusion_models` and diffusers folders; one line that says what to do where there is none."""
    folders = diffusers_folders()
    inside = tuple(f"{name}/" for name in folders)
    files = [name for name in weight_names("diffusion_models") if not name.replace(os.sep, "/").startswith(inside)]
    return [*files, *sorted(folders)] or [EMPTY]


def weight_names(category: str) -> list[str]:
    """Names of the safetensors files in one of the host's model folders."""
    return [name for name in folder_paths.get_filename_list(category) if name.lower().endswith(_WEIGHTS)]


def model_path(name: str) -> Path:
    """Path of an entry of `model_names`.

    Raises:
        ValueError: for a name that is not there (any more); tells where models go and where they can be had.
    """
    folder = diffusers_folders().get(name)
    return folder if folder is not None else weight_path("diffusion_models", name, "model")


def weight_path(category: str, name: str, socket: str) -> Path:
    """Path of a file in one of the host's model folders; `socket` is the widget it was chosen in.

    Raises:
        ValueError: for a name that is not there (any more).
    """
    path = folder_paths.get_full_path(category, name)
    if path is None:
        there = ", ".join(weight_names(category)) or "nothing"
        raise ValueError(
            f"{socket}: {name!r} is not in {places(category)} (there: {there}); "
            f"files for ACE-Step 1.5 are at Hugging Face in {SOURCE}"
        )
    return Path(path)


def weight_paths(category: str) -> list[Path]:
    """Every safetensors file of one of the host's model folders."""
    found = (folder_paths.get_full_path(category, name) for name in weight_names(category))
    return [Path(path) for path in found if path is not None]


def places(category: str) -> str:
    """The folders of a category as text."""
    return " or ".join(folder_paths.get_folder_paths(category))


def diffusers_folders() -> dict[str, Path]:
    """ACE-Step pipelines in diffusers' layout below `diffusers` and `diffusion_models`, by name."""
    found: dict[str, Path] = {}
    for category in ("diffusers", "diffusion_models"):
        for root in folder_paths.get_folder_paths(category):
            for folder in _folders(Path(root), _DEPTH):
                if _is_pipeline(folder):
                    found.setdefault(folder.relative_to(root).as_posix(), folder)
    return found


def _folders(root: Path, depth: int) -> Iterator[Path]:
    if depth == 0 or not root.is_dir():
        return
    for entry in sorted(root.iterdir()):
        if entry.is_dir():
            yield entry
            yield from _folders(entry, depth - 1)


def _is_pipeline(folder: Path) -> bool:
    """Whether the folder's index names an ACE-Step pipeline; an index that cannot be read names none."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and "acestep" in str(index.get("_class_name", "")).lower()


def stamp(path: Path) -> str:
    """Changes when the file or folder at `path` does; cheap."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return "|".join(f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)
