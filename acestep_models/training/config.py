"""The CONFIG file of a run without ComfyUI, checked whole before anything is written (see `headless`)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..pipelines.listen import MIN_SOURCE_SECONDS
from ..tasks import VARIANTS
from ..units import MAX_SECONDS
from .data.clip import MAX_RATIO, TAG_POSITIONS
from .options import TrainOptions
from .record import check_folders
from .song import POSTERIORS

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PATHS = ("model", "text_encoder", "vae", "tokenizer", "conditioner")
ABOUT_SET = ("name", "tag", "tag_position", "genre_ratio")
ABOUT_SONGS = ("hints", "posterior", "longest_seconds")
_KNOWN = {
    "": {"models", "dataset", "options", "output", "name", "precision", "device"},
    "models": {*PATHS, "variant"},
    "dataset": {"path", *ABOUT_SET, *ABOUT_SONGS},
}
_NEEDED = {"": ("models", "dataset", "name"), "models": (*PATHS[:3], "variant"), "dataset": ("path",)}
_MOST_NAME = 200  # bytes; systems take 255, and temporary names are longer
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Config:
    """A CONFIG file that was read; `base` is the folder that its paths count from."""

    path: Path
    base: Path
    models: Mapping[str, Any]
    dataset: Mapping[str, Any]
    options: TrainOptions
    output: Path
    name: str
    precision: str | None = None
    device: str | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.output / self.name

    @contextmanager
    def naming(self, key: str) -> Iterator[None]:
        """Errors of what an entry is used for name the file and the entry.

        Raises:
            ValueError: instead of ValueError and OSError.
        """
        try:
            yield
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.path}: {key}: {error}") from error


def read_config(path: Path) -> Config:
    """CONFIG, checked.

    Raises:
        ValueError: one sentence that names the file, the entry, its value and what it may be.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    for part in _KNOWN:
        _check_part(path, part, values if not part else values[part])
    for key, (fits, expected) in _ENTRIES.items():
        part, _, name = key.rpartition(".")
        place = values[part] if part else values
        if name in place and not fits(place[name]):
            raise ValueError(f"{path}: {key} must be {expected}, got {place[name]!r}")
    base = path.resolve().parent
    options = _options(path, values.get("options", {}))
    _check_there(path, base, values)
    config = Config(
        path,
        base,
        values["models"],
        values["dataset"],
        options,
        base / values.get("output", "."),
        values["name"].strip(),
        values.get("precision"),
        values.get("device"),
    )
    with config.naming("output"):
        check_folders(config.folder)
    return config


def _check_part(path: Path, part: str, values: Any) -> None:
    where = f"{path}: {part or 'the file'}"
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(values).__name__}")
    if unknown := sorted(values.keys() - _KNOWN[part]):
        raise ValueError(f"{where} has no entry {', '.join(unknown)}; there are {', '.join(sorted(_KNOWN[part]))}")
    if missing := [name for name in _NEEDED[part] if name not in values]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")


def _check_there(path: Path, base: Path, values: Mapping[str, Any]) -> None:
    """Pass if everything that is to be read is there."""
    wanted = {f"models.{name}": values["models"].get(name) for name in PATHS}
    for key, given in {**wanted, "dataset.path": values["dataset"]["path"]}.items():
        if given is not None and not (base / given).exists():
            raise ValueError(f"{path}: {key} must be a file or folder that is there, got {given!r} ({base / given})")


def _options(path: Path, values: Any) -> TrainOptions:
    try:
        options = TrainOptions.from_json(values)
    except ValueError as error:
        raise ValueError(f"{path}: options: {error}") from error
    if options.sample_every:
        raise ValueError(
            f"{path}: options.sample_every must be 0, got {options.sample_every}: samples are made by the node Train "
            "LoRA only; here, put a checkpoint on the model to hear it"
        )
    return options


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _is_name(value: Any) -> bool:
    """One that every system takes as the name of a folder."""
    if not _is_text(value):
        return False
    name = value.strip()
    odd = any(ord(sign) < 32 or sign in '/\\:*?"<>|' for sign in name)
    return not odd and name[0] != "." and name[-1] != "." and len(name.encode(errors="replace")) <= _MOST_NAME


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _is_device(value: Any) -> bool:
    """None, or one that is here."""
    if value is None or value == "cpu":
        return True
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        return False
    return int(value.partition(":")[2] or 0) < torch.cuda.device_count()


def _one_of(*words: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}"


_PATH = (_is_text, "the path of a file or folder")
_MAYBE_PATH = (lambda value: value is None or _is_text(value), "the path of a file or folder, or null")
# What each entry may be: a test, and its words.
_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_name, f'the name of a folder (at most {_MOST_NAME} bytes, none of /\\:*?"<>|, no dot first or last)'),
    "output": (_is_text, "the path of a folder"),
    "precision": (
        lambda value: value is None or (isinstance(value, str) and value in PRECISIONS),
        f"one of {', '.join(PRECISIONS)}",
    ),
    "device": (_is_device, "cpu, or cuda or cuda:N for a card that torch sees"),
    **{f"models.{name}": _PATH for name in PATHS[:3]},
    **{f"models.{name}": _MAYBE_PATH for name in PATHS[3:]},
    "models.variant": _one_of(*VARIANTS),
    "dataset.path": _PATH,
    "dataset.name": (_is_text, "a name"),
    "dataset.tag": (lambda value: isinstance(value, str), "a text"),
    "dataset.tag_position": _one_of(*TAG_POSITIONS),
    "dataset.genre_ratio": (
        lambda value: type(value) is int and 0 <= value <= MAX_RATIO,
        f"a whole number 0 to {MAX_RATIO}",
    ),
    "dataset.hints": (lambda value: isinstance(value, bool), "true or false"),
    "dataset.posterior": _one_of(*POSTERIORS),
    "dataset.longest_seconds": (
        lambda value: _is_number(value) and MIN_SOURCE_SECONDS <= value <= MAX_SECONDS,
        f"a number {MIN_SOURCE_SECONDS:g} to {MAX_SECONDS:g}",
    ),
}
