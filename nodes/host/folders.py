"""Where ComfyUI keeps models, extra model paths included: names for the widgets, paths for the loader.

A folder that may not be read is passed over: the lists are asked for while ComfyUI starts, and one bad mount must not
take every node of the pack with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import comfy.ops
import folder_paths

EMPTY = "(no model found: put one into models/diffusion_models)"
SOURCE = "Comfy-Org/ace_step_1.5_ComfyUI_files"
_WEIGHTS = (".safetensors", ".sft")
_INDEX = "model_index.json"
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
            for folder, files in _walk(Path(root), _DEPTH):
                if folder != Path(root) and _INDEX in files and _is_pipeline(folder):
                    found.setdefault(folder.relative_to(root).as_posix(), folder)
    return found


def _walk(root: Path, depth: int) -> Iterator[tuple[Path, list[str]]]:
    """Every readable folder from `root` to `depth` below it, in order, with the names of its files."""
    for place, folders, files in os.walk(root, followlinks=True):
        folder = Path(place)
        yield folder, sorted(files)
        folders[:] = sorted(folders) if len(folder.relative_to(root).parts) < depth else []


def _is_pipeline(folder: Path) -> bool:
    """Whether the folder's index names an ACE-Step pipeline; an index that cannot be read names none."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and "acestep" in str(index.get("_class_name", "")).lower()


def host_tokenizer() -> Path:
    """The folder of the Qwen2.5 tokenizer that ComfyUI ships; Qwen3's differs in the names of four tokens.

    Raises:
        ValueError: where this ComfyUI has none.
    """
    folder = Path(comfy.ops.__file__).parent / "text_encoders" / "qwen25_tokenizer"
    if not (folder / "vocab.json").is_file():
        raise ValueError(
            f"text_encoder: the file carries no tokenizer, and this ComfyUI has none in {folder}; update ComfyUI, or "
            "put the text encoder as model.safetensors into a folder of its own with its tokenizer.json beside it"
        )
    return folder


def stamp(path: Path) -> str:
    """Changes when the file or folder at `path` does; cheap. What cannot be read only has its name."""
    files = [folder / name for folder, names in _walk(path, _DEPTH) for name in names]
    weights = [file for file in files if file.name.lower().endswith(_WEIGHTS)]
    return "|".join(_state(file) for file in weights or [path])


def _state(file: Path) -> str:
    try:
        facts = file.stat()
    except OSError:
        return f"{file}:?"
    return f"{file}:{facts.st_size}:{facts.st_mtime_ns}"
