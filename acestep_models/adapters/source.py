"""Where an adapter lies: its weights, their header, and the config that PEFT or a header has for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..loading.header import Header, read_header

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SUFFIX = ".safetensors"
WEIGHT_SUFFIXES = (SUFFIX, ".sft")  # in any case

# Headers that carry a config: key -> what diffusers puts before each name in it.
DIFFUSERS_KEY = "lora_adapter_metadata"
DIFFUSERS_PREFIX = "transformer."
LYCORIS_KEY = "lokr_config"

# What adapter_config.json may call an adapter that is read here.
PEFT_TYPES = ("LORA", "LOKR", "LOHA")
CAUSAL_LM = "CAUSAL_LM"  # the task_type of a language model
# Such a start changes the base weights too; PEFT can convert the result when it saves.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True, eq=False)
class Source:
    """One adapter on disk.

    Attributes:
        config: adapter_config.json, or what the header has in its place; empty where there is neither.
        notes: what a user should know about them.
    """

    header: Header
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def find_source(path: Path) -> Source:
    """The weights and the config behind a path: a safetensors file, or a PEFT folder.

    A config beside a file is its own where the file has PEFT's name or is the only one of its folder.

    Raises:
        ValueError: if there is nothing to read, a pickle, a damaged file or config, or an adapter of another kind.
    """
    weights = _weights_in(path) if path.is_dir() else path
    if weights.suffix.lower() in PICKLES and weights.is_file():
        raise ValueError(_pickle(weights))
    header = read_header(weights)
    if not header.shapes:
        raise ValueError(f"{weights}: the file holds no tensors, so it is no adapter. Fetch it again.")
    beside = weights.parent / CONFIG
    if not beside.is_file():
        return Source(header, _config_in(header))
    if not _is_own_config(weights):
        note = f"the {CONFIG} beside it was not used: several files lie there, and nobody knows whose it is"
        return Source(header, _config_in(header), (note,))
    config = _read_json(beside)
    _check_type(beside, config)
    return Source(header, config, _notes(config))


def _weights_in(folder: Path) -> Path:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    found = _weight_files(folder)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{folder}: holds {len(found)} files and no {WEIGHTS}. Choose one of the files.")
    pickles = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICKLES)
    if pickles:
        raise ValueError(_pickle(pickles[0]))
    raise ValueError(f"{folder}: no {WEIGHTS} in this folder. Choose the folder that holds it, or a {SUFFIX} file.")


def _pickle(path: Path) -> str:
    return (
        f"{path}: this is a pickle; those can run code and are not read. Ask its author for the {SUFFIX} file, or load "
        f"it where you trust it and save it with safetensors."
    )


def _is_own_config(weights: Path) -> bool:
    return weights.name == WEIGHTS or [file.name for file in _weight_files(weights.parent)] == [weights.name]


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in WEIGHT_SUFFIXES)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # covers bytes that are not UTF-8 as well
        raise ValueError(f"{path}: the config is not JSON ({error}). Fetch the file again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: the config is no JSON object but {type(value).__name__}. Fetch the file again.")
    return value


def _config_in(header: Header) -> dict[str, Any]:
    """What a header says in PEFT's words; empty if it says nothing."""
    diffusers = _header_json(header, DIFFUSERS_KEY)
    if diffusers:
        return {key.removeprefix(DIFFUSERS_PREFIX): value for key, value in diffusers.items()}
    alpha = _header_json(header, LYCORIS_KEY).get("linear_alpha")
    return {} if alpha is None else {"alpha": alpha}


def _header_json(header: Header, key: str) -> dict[str, Any]:
    if key not in header.metadata:
        return {}
    try:
        value = json.loads(header.metadata[key])
    except ValueError as error:
        raise ValueError(
            f"{header.path}: {key} in the header is not JSON ({error}). Without it the strength is unknown: fetch the "
            "file again."
        ) from error
    return value if isinstance(value, dict) else {}


def _check_type(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type", PEFT_TYPES[0])
    if kind not in PEFT_TYPES:
        raise ValueError(
            f"{path}: an adapter of the type {kind!r}; {', '.join(PEFT_TYPES)} can be applied here. Merge it with PEFT "
            "into a checkpoint and load that."
        )
    if config.get("task_type") == CAUSAL_LM:
        raise ValueError(
            f"{path}: a LoRA of a language model (task_type {CAUSAL_LM}), and adapters here change the decoder of the "
            "DiT. Choose one that was trained on it."
        )


def _notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(CHANGES_BASE):
        return (
            f"training began with {start}, which changes the base weights too: unless its author converted it to a "
            "plain LoRA, it does not fit the published model",
        )
    return ()
