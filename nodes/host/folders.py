"""Where ComfyUI keeps models, extra model paths included: names for the widgets, paths for the loader.

A folder that may not be read is passed over: the lists are asked for while ComfyUI starts, and one bad mount must not
take every node of the pack with it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import comfy.ops
import folder_paths

from ...acestep_models.loading.roles import LM, LM_ROWS, ROLE_KEY

EMPTY = "(no model found: put one into models/diffusion_models)"
SOURCE = "Comfy-Org/ace_step_1.5_ComfyUI_files"
CHECKPOINTS = "checkpoints"
MODEL_ROOTS = ("diffusers", "diffusion_models", CHECKPOINTS)
TEXT_ENCODERS = "text_encoders"
PLANNER_ROOTS = (TEXT_ENCODERS, *MODEL_ROOTS)
TEXT_FOLDER, VAE_FOLDER, PLANNER_FOLDER = "Qwen3-Embedding-0.6B", "vae", "acestep-5Hz-lm-"
_BESIDE = (TEXT_FOLDER, VAE_FOLDER, PLANNER_FOLDER)
WEIGHT_SUFFIXES = (".safetensors", ".sft")
GGUF_SUFFIX = ".gguf"  # in no list of the host, which does not read them
GGUF_CATEGORIES = ("diffusion_models", CHECKPOINTS, TEXT_ENCODERS, "vae")
_INDEX, _CONFIG = "model_index.json", "config.json"
_UPSTREAM_WEIGHTS = frozenset(("model.safetensors", "model.safetensors.index.json"))
_DEPTH = 2
NEAREST = 3  # names in a complaint
_LIKE_A_PLANNER = re.compile(r"ace.?step.*(lm|aio)|qwen.*(1\.7b|4b).*ace", re.IGNORECASE)


def model_names() -> list[str]:
    """Whatever a model can be chosen from, or one line that says what to do where there is nothing.

    Files of `diffusion_models`, folders as upstream and diffusers publish them, files of `checkpoints` under that name.
    """
    folders = model_folders()
    files = [name for name in weight_names("diffusion_models") if not _is_inside(name, folders)]
    whole = [name for name in weight_names(CHECKPOINTS) if not _is_inside(name, folders)]
    names = [*files, *sorted(folders), *(f"{CHECKPOINTS}/{name}" for name in whole)]
    return list(dict.fromkeys(names)) or [EMPTY]


def conditioner_names() -> list[str]:
    """Whole models whose readers may stand beside a decoder that was saved alone."""
    return [name for name in model_names() if name != EMPTY]


def text_encoder_names() -> list[str]:
    """Files of `text_encoders`."""
    return weight_names("text_encoders")


def planner_names() -> list[str]:
    """Whatever a planner can be chosen from; what is one by its name or its folder comes first.

    Folders as upstream publishes them, files of `text_encoders`, and files of `checkpoints` under that name.
    """
    folders = planner_folders()
    files = [name for name in weight_names(TEXT_ENCODERS) if not _is_inside(name, folders)]
    whole = [name for name in weight_names(CHECKPOINTS) if not _is_inside(name, [*folders, *model_folders()])]
    names = dict.fromkeys((*sorted(folders), *files, *(f"{CHECKPOINTS}/{name}" for name in whole)))
    return sorted(names, key=lambda name: name not in folders and not _LIKE_A_PLANNER.search(name))


def vae_names() -> list[str]:
    """Files of `vae`."""
    return weight_names("vae")


def _is_inside(name: str, folders: Iterable[str]) -> bool:
    """Whether a file belongs to a model folder, or to the VAE, text encoder or planner beside an upstream one."""
    name = name.replace(os.sep, "/")
    parents = {folder.rpartition("/")[0] for folder in folders}
    beside = tuple(f"{parent}/{other}" if parent else other for parent in parents for other in _BESIDE)
    outer = name.rpartition("/")[0]
    return name.startswith(tuple(f"{folder}/" for folder in folders)) or outer.startswith(beside)


def weight_names(category: str) -> list[str]:
    """Names of the safetensors files in one of the host's model folders, and of the GGUF files where models are."""
    names = [name for name in folder_paths.get_filename_list(category) if name.lower().endswith(WEIGHT_SUFFIXES)]
    return names if category not in GGUF_CATEGORIES else [*names, *_gguf_names(category)]


def _gguf_names(category: str) -> list[str]:
    """As the host names its own files; those of its first folder count."""
    found = (
        str((folder / name).relative_to(root))
        for root in map(Path, folder_paths.get_folder_paths(category))
        for folder, names in _walk(root, _DEPTH)
        for name in names
        if name.lower().endswith(GGUF_SUFFIX) and (folder / name).is_file()
    )
    return sorted(set(found))


def model_path(name: str, socket: str = "model") -> Path:
    """Path of an entry of `model_names`; `socket` is the widget it was chosen in.

    Where two folders of one kind have a file of this name, it is the one that ComfyUI lists first.

    Raises:
        ValueError: for a name that is not there (any more); tells where models go and where they can be had.
    """
    folder = model_folders().get(name)
    if folder is not None:
        return folder
    inside = name.removeprefix(f"{CHECKPOINTS}/")
    if inside != name and folder_paths.get_full_path("diffusion_models", name) is None:
        return weight_path(CHECKPOINTS, inside, socket)
    return weight_path("diffusion_models", name, socket)


def planner_path(name: str) -> Path:
    """Path of an entry of `planner_names`.

    Raises:
        ValueError: for a name that is not there (any more).
    """
    folder = planner_folders().get(name)
    if folder is not None:
        return folder
    inside = name.removeprefix(f"{CHECKPOINTS}/")
    if inside != name and folder_paths.get_full_path(TEXT_ENCODERS, name) is None:
        return weight_path(CHECKPOINTS, inside, "model")
    return weight_path(TEXT_ENCODERS, name, "model")


def weight_path(category: str, name: str, socket: str) -> Path:
    """Path of a file in one of the host's model folders; `socket` is the widget it was chosen in.

    Raises:
        ValueError: for a name that is not there (any more).
    """
    path = folder_paths.get_full_path(category, name)
    if path is None:
        raise ValueError(
            f"{socket}: {name!r} is not in {places(category)} ({nearest(name, weight_names(category))}); "
            f"files for ACE-Step 1.5 are at Hugging Face in {SOURCE}"
        )
    return Path(path)


def nearest(name: str, names: list[str]) -> str:
    """What may have been meant: the names that are most like one that is not there."""
    if len(names) <= NEAREST:
        return f"there: {', '.join(names) or 'nothing'}"
    return f"{len(names)} are there, nearest: {', '.join(difflib.get_close_matches(name, names, NEAREST, 0.0))}"


def weight_paths(category: str) -> list[Path]:
    """Every file of `weight_names` in one of the host's model folders."""
    found = (folder_paths.get_full_path(category, name) for name in weight_names(category))
    return [Path(path) for path in found if path is not None]


def places(category: str) -> str:
    """The folders of a category as text."""
    return " or ".join(folder_paths.get_folder_paths(category))


def other_paths(category: str, path: Path) -> list[Path]:
    """Files of the same name in the category's other folders, which ComfyUI's lists hide behind `path`."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(category)]
    home = next((root for root in roots if path.is_relative_to(root)), None)
    if home is None:
        return []
    return [
        root / path.relative_to(home) for root in roots if root != home and (root / path.relative_to(home)).exists()
    ]


def model_folders() -> dict[str, Path]:
    """ACE-Step models that are folders, below `diffusers`, `diffusion_models` and `checkpoints`, by name."""
    found: dict[str, Path] = {}
    for root, folder, files in _model_tree():
        if _is_pipeline(folder, files) or _is_upstream(folder, files):
            found.setdefault(folder.relative_to(root).as_posix(), folder)
    return found


def planner_folders() -> dict[str, Path]:
    """Planners that are folders, below `text_encoders` and wherever models are, by name."""
    found: dict[str, Path] = {}
    for root, folder, files in _model_tree(PLANNER_ROOTS):
        if _is_planner(folder, files):
            found.setdefault(folder.relative_to(root).as_posix(), folder)
    return found


def folders_named(name: str) -> list[Path]:
    """Folders of that name where models are: the main repository's VAE and text encoder, for models that have none."""
    return [folder for _, folder, files in _model_tree() if folder.name == name and _CONFIG in files]


def _model_tree(roots: Iterable[str] = MODEL_ROOTS) -> Iterator[tuple[Path, Path, list[str]]]:
    """(root, folder, files) of every folder in which a model may be."""
    for category in roots:
        for root in map(Path, folder_paths.get_folder_paths(category)):
            yield from ((root, folder, files) for folder, files in _walk(root, _DEPTH) if folder != root)


def _walk(root: Path, depth: int) -> Iterator[tuple[Path, list[str]]]:
    """Every readable folder from `root` to `depth` below it, in order, with the names of its files."""
    for place, folders, files in os.walk(root, followlinks=True):
        folder = Path(place)
        yield folder, sorted(files)
        folders[:] = sorted(folders) if len(folder.relative_to(root).parts) < depth else []


def _is_pipeline(folder: Path, files: list[str]) -> bool:
    """Whether the folder's index names an ACE-Step pipeline."""
    return _INDEX in files and "acestep" in str(_json(folder / _INDEX).get("_class_name", "")).lower()


def _is_upstream(folder: Path, files: list[str]) -> bool:
    """Whether this is a decoder's folder as it was published: its config has a field that only those have."""
    if _CONFIG not in files or _UPSTREAM_WEIGHTS.isdisjoint(files):
        return False
    return "audio_acoustic_hidden_dim" in _json(folder / _CONFIG)


def _is_planner(folder: Path, files: list[str]) -> bool:
    """Whether this is a planner's folder: by its name, or by the audio codes in its vocabulary."""
    if _CONFIG not in files or _UPSTREAM_WEIGHTS.isdisjoint(files):
        return False
    config = _json(folder / _CONFIG)
    rows = config.get("vocab_size")
    return (
        folder.name.startswith(PLANNER_FOLDER)
        or config.get(ROLE_KEY) == LM
        or (isinstance(rows, int) and rows >= LM_ROWS)
    )


def _json(path: Path) -> dict[str, Any]:
    """What cannot be read is empty."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def host_tokenizer() -> Path:
    """The folder of the Qwen2.5 tokenizer that ComfyUI ships; Qwen3's differs in the names of four tokens.

    Raises:
        ValueError: where this ComfyUI has none.
    """
    folder = Path(comfy.ops.__file__).parent / "text_encoders" / "qwen25_tokenizer"
    if not (folder / "vocab.json").is_file():
        raise ValueError(
            f"tokenizer: the file carries no tokenizer, and this ComfyUI has none in {folder}; update ComfyUI, or put "
            "the file as model.safetensors into a folder of its own with its tokenizer.json beside it"
        )
    return folder


def stamp(path: Path) -> str:
    """Changes when the file or folder at `path` does; cheap. What cannot be read only has its name."""
    files = [folder / name for folder, names in _walk(path, _DEPTH) for name in names]
    weights = [file for file in files if file.name.lower().endswith((*WEIGHT_SUFFIXES, GGUF_SUFFIX))]
    return "|".join(_state(file) for file in weights or [path])


def _state(file: Path) -> str:
    try:
        facts = file.stat()
    except OSError:
        return f"{file}:?"
    return f"{file}:{facts.st_size}:{facts.st_mtime_ns}"
