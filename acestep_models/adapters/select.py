"""Which part of an adapter is used, and how strongly: by kind of module and by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .delta import Delta

LAST = 999  # no decoder has nearly so many layers
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_GROUP = re.compile(r"\.(self_attn|cross_attn|mlp)(?![a-z])")
_RANGE = re.compile(r"(\d{1,9})(?:\s*[-\u2013]\s*(\d{1,9}))?")  # text programs make an en dash of it


@dataclass(frozen=True)
class Choice:
    """Factors of a strength, by the kind of module; 0 leaves a module out.

    Attributes:
        other: what belongs to no attention and no MLP: projections in and out, time and condition embedders.
        layers: the layers that count, from 0 (`parse_layers`); None is all. What stands outside of them is no matter
            of this.
    """

    self_attention: float = 1.0
    cross_attention: float = 1.0
    mlp: float = 1.0
    other: float = 1.0
    layers: frozenset[int] | None = None

    def factor(self, name: str) -> float:
        """What the delta of a module (canonical name) is multiplied by."""
        layer = layer_of(name)
        if layer is not None and self.layers is not None and layer not in self.layers:
            return 0.0
        factors = {"self_attn": self.self_attention, "cross_attn": self.cross_attention, "mlp": self.mlp}
        return factors.get(group_of(name), self.other)


def layer_of(name: str) -> int | None:
    """The layer that a module (canonical name) is in, from 0; None outside of them."""
    found = _LAYER.search(name)
    return None if found is None else int(found[1])


def group_of(name: str) -> str:
    """The kind of a module (canonical name): "self_attn", "cross_attn", "mlp", or "other"."""
    found = _GROUP.search(name)
    return "other" if found is None else found[1]


def select(deltas: Mapping[str, Delta], choice: Choice) -> dict[str, Delta]:
    """The deltas that are left, each with its factor in it."""
    factors = {name: choice.factor(name) for name in deltas}
    return {
        name: delta if factors[name] == 1 else delta.scaled(factors[name])
        for name, delta in deltas.items()
        if factors[name] != 0
    }


def parse_layers(text: str) -> frozenset[int] | None:
    """Layers written as "0-11, 20", both ends included, counted from 0; None for an empty text: all of them.

    Raises:
        ValueError: for anything else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [_RANGE.fullmatch(part) for part in parts]
    layers: set[int] = set()
    for part, match in zip(parts, found, strict=True):
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last > LAST:
            raise ValueError(
                f"layers: {part!r} in {text!r} is no layer and no range of layers: write numbers from 0 to {LAST} and "
                'ranges from the smaller to the larger, as in "0-11, 20"; empty means all layers'
            )
        layers.update(range(first, last + 1))
    return frozenset(layers) if parts else None
