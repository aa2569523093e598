"""An adapter as a file that others read: a PEFT folder, ComfyUI's single file, kohya's and diffusers' names.

Every reader but PEFT takes the scale from `.alpha` tensors, so they are always there (spec/lora.md §3.3); diffusers
takes it from the header instead, and refuses files with alphas.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..loading.keymaps import DIFFUSERS
from .adapter import Adapter, AdapterFacts
from .alphas import ALPHA_GUESSED, YES
from .delta import Delta, DoRA, Full, LoHa, LoKr, LowRank
from .peft_folder import low_rank_alpha, peft_config, why_not
from .source import CONFIG, SUFFIX, WEIGHTS

PEFT = "peft"
METADATA = "__metadata__"  # of a safetensors header

# What of the header says how another file names or scales things; the new one has its own.
_STALE = {
    "format",
    "lora_adapter_metadata",
    "lokr_config",
    "lycoris_config",
    "rank",
    "alpha",
    "lora_alpha",
    ALPHA_GUESSED,
}
_FACTS = ("base_variant", "trigger", "trigger_position", "conditioning")
_WHOLE_LOKR = json.dumps({"linear_dim": 1, "linear_alpha": 1})  # LyCORIS: alpha is the dim where nothing is factored


@dataclass(frozen=True)
class Family:
    """One way to write an adapter.

    Attributes:
        prefix: what stands before the name of every module.
        separator: what its dots become.
        halves: the names of down and up.
        kinds: which deltas it can hold.
    """

    prefix: str
    separator: str
    halves: tuple[str, str]
    kinds: frozenset[str]


_ANY = frozenset({"lora", "lokr", "loha", "full", "dora"})
_DOWN_UP, _A_B = ("lora_down", "lora_up"), ("lora_A", "lora_B")
FAMILIES: dict[str, Family] = {
    PEFT: Family("base_model.model.", ".", _A_B, frozenset({"lora", "dora", "lokr"})),
    "single": Family("diffusion_model.decoder.", ".", _DOWN_UP, _ANY),
    "kohya": Family("lora_unet_decoder_", "_", _DOWN_UP, _ANY),
    "diffusers": Family("transformer.", ".", _A_B, frozenset({"lora"})),
}


def write_adapter(adapter: Adapter, path: Path, family: str) -> Path:
    """Write an adapter, whole or not at all; gives `path` back.

    Args:
        path: a folder that is not there yet for "peft", else a file whose name ends in .safetensors.
        family: a row of `FAMILIES`.

    Raises:
        ValueError: if something is there already, the name does not fit, or the family cannot hold the adapter.
    """
    _check(adapter, path, family)
    tensors, header = _tensors(adapter, family), _header(adapter, family)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if family == PEFT:
            draft.mkdir()
            _write_text(draft / CONFIG, json.dumps(peft_config(adapter), indent=2))
            _write_tensors(draft / WEIGHTS, tensors, header)
        else:
            _write_tensors(draft, tensors, header)
        draft.rename(path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)
    return path


def _check(adapter: Adapter, path: Path, family: str) -> None:
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
    if path.exists():
        raise ValueError(f"{path}: is there already and is not replaced. Choose another name, or remove it first")
    if family != PEFT and path.suffix != SUFFIX:
        raise ValueError(f"{path}: the name of a LoRA file ends in {SUFFIX}, got {path.suffix!r}")
    if not adapter.deltas:
        raise ValueError(f"{path}: the adapter changes no module, there is nothing to write")
    kinds = {delta.kind for delta in adapter.deltas.values()}
    inner = {delta.delta.kind for delta in adapter.deltas.values() if isinstance(delta, DoRA)}
    if family == PEFT and "dora" in kinds and (kinds != {"dora"} or inner != {"lora"}):
        raise ValueError(f"{path}: a PEFT folder holds either plain LoRAs or DoRAs of LoRAs, {_held_by(kinds | inner)}")
    if family == PEFT and LoKr.kind in kinds and (reason := why_not(adapter)):
        raise ValueError(f"{path}: {family!r} cannot hold {reason}, {_held_by(kinds)}")
    if not kinds <= FAMILIES[family].kinds:
        held = _held_by(kinds, peft=kinds == {"dora"} and inner == {"lora"})
        raise ValueError(f"{path}: {family!r} cannot hold {_words(kinds - FAMILIES[family].kinds)}, {held}")
    if any(isinstance(delta, DoRA) and delta.strength != 1 for delta in adapter.deltas.values()):
        raise ValueError(
            f"{path}: no file can hold a DoRA at another strength than 1. Write it at 1 and choose the strength where "
            "it is applied"
        )


def _held_by(kinds: set[str], *, peft: bool = False) -> str:
    """The families that can hold these kinds, and what else helps; `peft` whether a folder could."""
    names = [name for name, family in FAMILIES.items() if kinds <= family.kinds and (name != PEFT or peft)]
    smaller = "" if "dora" in kinds else ", or cut it to a rank, which makes it a plain LoRA"
    return f"this adapter has {_words(kinds)}. Choose {' or '.join(names)}{smaller}"


def _words(kinds: set[str]) -> str:
    words = {"lora": "LoRA", "lokr": "LoKr", "loha": "LoHa", "full": "whole matrices", "dora": "DoRA"}
    return ", ".join(words[kind] for kind in sorted(kinds))


def _tensors(adapter: Adapter, family: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, delta in adapter.deltas.items():
        parts = _parts(delta, family)
        found |= {f"{_prefix(name, family)}.{part}": _stored(tensor, seen) for part, tensor in parts.items()}
    return found


def _prefix(name: str, family: str) -> str:
    row = FAMILIES[family]
    if family == "diffusers":
        name = _diffusers_name(name)
    return row.prefix + name.replace(".", row.separator)


def _diffusers_name(name: str) -> str:
    try:
        return DIFFUSERS["decoder"].theirs(f"{name}.weight").removesuffix(".weight")
    except KeyError:
        raise ValueError(
            f"diffusers has no module for {name!r}, so it cannot be written for it. Choose another family"
        ) from None


def _parts(delta: Delta, family: str) -> dict[str, Tensor]:
    """What a module's tensors are called after its name."""
    if isinstance(delta, DoRA):
        magnitude = delta.magnitude.float()
        # PEFT keeps [out]; everybody else needs [out, 1], or a square weight is scaled by its columns.
        last = {"lora_magnitude_vector": magnitude} if family == PEFT else {"dora_scale": magnitude[:, None]}
        return _parts(delta.delta, family) | last
    if isinstance(delta, LowRank):
        down, up = FAMILIES[family].halves
        parts = {f"{down}.weight": delta.down, f"{up}.weight": _as_long(delta.up, delta.down)}
        return parts if FAMILIES[family].halves == _A_B else parts | _alpha_tensor(low_rank_alpha(delta))
    if isinstance(delta, LoKr):
        return _lokr_parts(delta, in_config=family == PEFT)
    if isinstance(delta, LoHa):
        pairs = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), delta.first + delta.second, strict=True))
        cores = dict(zip(("hada_t1", "hada_t2"), delta.cores or (), strict=False))
        return pairs | cores | _alpha_tensor(delta.scale * delta.rank)
    if isinstance(delta, Full):
        return {"diff": delta.diff}
    raise TypeError(f"no file holds a {type(delta).__name__}")


def _lokr_parts(delta: LoKr, in_config: bool) -> dict[str, Tensor]:
    """`in_config`: the scale stands in a config beside the file."""
    rank = delta.rank
    left = delta.left
    if rank is None and delta.scale != 1 and not in_config:  # others take whole factors at scale 1, whatever alpha says
        left = (left[0].float() * delta.scale,)
    parts = {**_factors("lokr_w1", left), **_factors("lokr_w2", delta.right)}
    core = {} if delta.core is None else {"lokr_t2": delta.core}
    return parts if in_config else parts | core | _alpha_tensor(1.0 if rank is None else delta.scale * rank)


def _factors(name: str, side: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {name: side[0]} if len(side) == 1 else {f"{name}_a": side[0], f"{name}_b": side[1]}


def _as_long(up: Tensor, down: Tensor) -> Tensor:
    """up [out, rank] of a convolution as [out, rank, 1]."""
    return up.reshape(*up.shape[:2], *[1] * (down.ndim - 2))


def _alpha_tensor(alpha: float) -> dict[str, Tensor]:
    return {"alpha": torch.tensor(alpha, dtype=torch.float32)}  # 0-dim: the one form that every reader takes


def _stored(tensor: Tensor, seen: set[int]) -> Tensor:
    """On the CPU, in one piece, sharing no memory with what has been `seen`: safetensors takes nothing else."""
    held = tensor.detach().cpu().contiguous()
    if held.untyped_storage().data_ptr() in seen:
        held = held.clone()
    seen.add(held.untyped_storage().data_ptr())
    return held


def _header(adapter: Adapter, family: str) -> dict[str, str]:
    facts = adapter.facts
    kept = {key: value for key, value in facts.metadata.items() if key not in _STALE}
    kept |= _said(facts)
    whole = any(isinstance(delta, LoKr) and delta.rank is None for delta in adapter.deltas.values())
    own = {"format": "pt"} | ({"lokr_config": _WHOLE_LOKR} if whole else {})
    if family == "diffusers":
        own["lora_adapter_metadata"] = json.dumps(_diffusers_config(adapter), sort_keys=True)
    return kept | own


def _said(facts: AdapterFacts) -> Mapping[str, str]:
    said = {name: str(getattr(facts, name)) for name in _FACTS if getattr(facts, name) is not None}
    return said | ({ALPHA_GUESSED: YES} if facts.alpha_guessed else {})


def _diffusers_config(adapter: Adapter) -> dict[str, Any]:
    """PEFT's configuration in diffusers' names, each key under the component that it is for."""
    config = peft_config(adapter)
    patterns = {key: _renamed(config[key]) for key in ("rank_pattern", "alpha_pattern")}
    config |= patterns | {"target_modules": [_diffusers_name(name) for name in config["target_modules"]]}
    return {f"transformer.{key}": value for key, value in config.items()}


def _renamed(pattern: Mapping[str, Any]) -> dict[str, Any]:
    return {_diffusers_name(name): value for name, value in pattern.items()}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    save_file(dict(tensors), path, dict(header))
    with path.open("rb+") as file:
        _sort_header(file)
        file.flush()
        os.fsync(file.fileno())


def _sort_header(file: IO[bytes]) -> None:
    """The facts in the order of their names: safetensors has another order each time, and equal files would differ."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    facts = {METADATA: dict(sorted(header.pop(METADATA, {}).items()))}
    text = json.dumps({**facts, **header}, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) <= length:  # as safetensors writes it, so it always is
        file.seek(8)
        file.write(text.ljust(length))


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
