"""What an adapter changes, counted, and what its file says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..acestep_models.adapters.files import Adapter, AdapterFacts
from ..acestep_models.adapters.match import WIDTHS
from ..acestep_models.adapters.select import group_of, layer_of

PARTS = {"self_attn": "self attention", "cross_attn": "cross attention", "mlp": "MLP", "other": "other"}
LONGEST_VALUE = 300


def summary(adapter: Adapter) -> tuple[str, ...]:
    """What it changes, and the decoder it belongs to where that is known."""
    width = adapter.facts.width
    model = f" ({WIDTHS[width]})" if width in WIDTHS else ""
    return (_changed(adapter.deltas), f"for a decoder of width {width}{model}" if width else "")


def metadata_lines(facts: AdapterFacts) -> tuple[str, ...]:
    """Everything in the header of the file, long values cut."""
    return tuple(f"{name}: {_cut(value)}" for name, value in sorted(facts.metadata.items()))


def _changed(names: Iterable[str]) -> str:
    """How many modules of which part and where: "modules: 4 (2 self attention, 2 MLP; layers 0-1)"."""
    names = tuple(names)
    parts = Counter(map(group_of, names))
    listed = ", ".join(f"{parts[part]} {words}" for part, words in PARTS.items() if parts[part])
    layers = sorted({layer for layer in map(layer_of, names) if layer is not None})
    return f"modules: {len(names)} ({listed}{f'; layers {_ranges(layers)}' if layers else ''})"


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers as "0-11, 20"."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _cut(value: str) -> str:
    plain = " ".join(value.split())
    return plain if len(plain) <= LONGEST_VALUE else f"{plain[:LONGEST_VALUE]}..."
