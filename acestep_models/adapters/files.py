"""From a file or a PEFT folder to an adapter: every family of spec/lora.md §3.1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .adapter import Adapter, AdapterFacts, Skipped
from .alphas import ALPHA_GUESSED, YES, AlphaRules, Scale
from .delta import Delta
from .facts import gather_facts
from .families import elsewhere, family_of, no_adapter, unreadable, why_skipped
from .names import Part, canonical_name, parse_key, spellings
from .parts import ALPHA, build_delta
from .source import Source, find_source

__all__ = ["Adapter", "AdapterFacts", "Skipped", "read_adapter"]

Modules = Mapping[str, Mapping[str, Part]]


def read_adapter(path: Path, alpha: float | None = None) -> Adapter:
    """An adapter from a safetensors file, or from a PEFT folder (adapter_config.json and adapter_model.safetensors).

    Args:
        alpha: of the training, for files that do not say it; what a file says itself comes first.

    Raises:
        ValueError: if it is something else, damaged, incomplete or not finite, or changes nothing of the decoder.
    """
    source = find_source(path)
    where, keys = source.header.path, list(source.header.shapes)
    parts = [part for part in map(parse_key, keys) if part is not None]
    if reason := unreadable(keys, source.config):
        raise ValueError(f"{where}: this is {reason}.")
    if all(part.role == ALPHA for part in parts):  # the snakes of a VAE have alphas too
        raise ValueError(f"{where}: this is {no_adapter(keys)}.")
    modules = _by_module(where, parts)
    if not modules:
        raise ValueError(f"{where}: this is {elsewhere(keys)}.")
    rules = AlphaRules(source.config, alpha, source.header.metadata.get(ALPHA_GUESSED) == YES)
    deltas, scales = _read_deltas(source, modules, rules)
    used = {part.key for roles in modules.values() for part in roles.values()}
    facts = gather_facts(source, deltas, scales)
    facts = replace(facts, family=family_of(sorted(used)), notes=(*facts.notes, *rules.notes(scales)))
    return Adapter(deltas, facts, tuple(Skipped(key, _why(key)) for key in keys if key not in used))


def _by_module(path: Path, parts: Iterable[Part]) -> Modules:
    """Our module -> role -> part. Alphas without anything to scale are left out."""
    modules: dict[str, dict[str, Part]] = {}
    for part in parts:
        name = canonical_name(part.module)
        if name is None:
            continue
        other = modules.setdefault(name, {}).setdefault(part.role, part)
        if other is not part:
            raise ValueError(
                f"{path}: both {other.key} and {part.key} are the {part.role} of {name}: the file holds more than one "
                "adapter. Save them apart."
            )
    return {name: roles for name, roles in modules.items() if roles.keys() != {ALPHA}}


def _read_deltas(source: Source, modules: Modules, rules: AlphaRules) -> tuple[dict[str, Delta], list[Scale]]:
    deltas: dict[str, Delta] = {}
    scales: list[Scale] = []
    path, name = source.header.path, ""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in sorted(modules, key=_in_order):
                tensors = {role: _tensor(file, part) for role, part in modules[name].items()}
                deltas[name] = _delta(modules[name], tensors, rules, scales)
    except SafetensorError as error:
        raise ValueError(f"{path}: the file is damaged ({error}). Fetch it again.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}.") from error
    return deltas, scales


def _delta(roles: Mapping[str, Part], tensors: Mapping[str, Tensor], rules: AlphaRules, scales: list[Scale]) -> Delta:
    stored = _stored_alpha(tensors)
    module = next(part.module for role, part in roles.items() if role != ALPHA)

    def scale_of(rank: int | None) -> float:
        scales.append(rules.scale(spellings(module), rank, stored))
        return scales[-1].factor

    return build_delta(tensors, scale_of)


def _tensor(file: Any, part: Part) -> Tensor:
    """One tensor, read into memory and looked through."""
    tensor: Tensor = file.get_tensor(part.key).clone()
    if tensor.numel() == 0:
        raise ValueError(f"{part.key} is empty ({list(tensor.shape)}); the file is damaged, fetch it again")
    if part.role == ALPHA:
        return tensor
    if not tensor.is_floating_point():
        raise ValueError(f"{part.key} holds {tensor.dtype}, expected floating point; quantised adapters are not read")
    if not torch.isfinite(tensor.float()).all():
        raise ValueError(
            f"{part.key} holds NaN or infinity; its training went wrong or the file is damaged. Take an earlier "
            "checkpoint, or fetch it again"
        )
    return tensor


def _stored_alpha(tensors: Mapping[str, Tensor]) -> float | None:
    if ALPHA not in tensors:
        return None
    tensor = tensors[ALPHA]
    if tensor.numel() != 1 or not torch.isfinite(tensor.float()).all():
        raise ValueError(f"its alpha is {tensor.tolist()}, expected one number; the file is damaged")
    return float(tensor.item())


def _why(key: str) -> str:
    part = parse_key(key)
    if part is not None and part.role == ALPHA and canonical_name(part.module):
        return "an alpha without anything to scale"
    return why_skipped(key)


def _in_order(name: str) -> tuple[float, str]:
    """Layers by number, what stands outside them at the end."""
    words = name.split(".")
    return (float(words[1]) if words[0] == "layers" else math.inf), name
