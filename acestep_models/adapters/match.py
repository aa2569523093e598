"""An adapter meets a decoder: which of its deltas have a weight there, and why the others have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from .adapter import Adapter, Skipped
from .delta import Delta

WIDTHS = {2048: "2B", 2560: "XL"}
# Modules that read the decoder's width, and those that write it.
READ_WIDTH = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "cross_attn.q_proj", "gate_proj", "up_proj")
WRITE_WIDTH = ("o_proj", "down_proj", "condition_embedder")
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Match:
    """The deltas that fit, by the decoder's name of the module, and every one that does not."""

    deltas: Mapping[str, Delta]
    unmatched: tuple[Skipped, ...]


def match(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Match:
    """Sort the deltas of an adapter into those that this decoder can take and those that it cannot.

    Args:
        shapes: a module of the decoder ("layers.0.self_attn.q_proj") -> shape of its weight [out, in, taps ...].

    Raises:
        ValueError: if none fits; says what the adapter was trained for.
    """
    reasons = {name: _mismatch(name, delta, shapes) for name, delta in adapter.deltas.items()}
    deltas = {name: delta for name, delta in adapter.deltas.items() if reasons[name] is None}
    unmatched = tuple(Skipped(name, reason) for name, reason in reasons.items() if reason is not None)
    if not deltas:
        raise ValueError(_nothing(adapter, unmatched, width_of(shapes)))
    return Match(deltas, unmatched)


def describe_width(width: int) -> str:
    """A decoder by its width, in the words of its publisher: "2B (2048)"."""
    return f"{WIDTHS[width]} ({width})" if width in WIDTHS else f"width {width}"


def width_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The width of a decoder by the shapes of its weights or of deltas, None where no module shows it."""
    for name, shape in shapes.items():
        if name.endswith(READ_WIDTH):
            return shape[1]
        if name.endswith(WRITE_WIDTH):
            return shape[0]
    return None


def _mismatch(name: str, delta: Delta, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if name not in shapes:
        return "this decoder has no such module"
    wanted = _matrix_shape(shapes[name])
    if delta.shape == wanted:
        return None
    return f"made for a weight of {list(delta.shape)}, this decoder's has {list(wanted)}"


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], prod(shape[1:])


def _nothing(adapter: Adapter, unmatched: tuple[Skipped, ...], width: int | None) -> str:
    trained = adapter.facts.width
    if trained is not None and width is not None and trained != width:
        return (
            f"this LoRA was trained for {describe_width(trained)}, this decoder is {describe_width(width)}: none of "
            f"its {len(unmatched)} modules fits. Load a model of the size that the LoRA was trained for, or take a "
            "LoRA for this one"
        )
    shown = "; ".join(f"{one.key}: {one.reason}" for one in unmatched[:_SHOWN])
    more = f"; and {len(unmatched) - _SHOWN} more" if len(unmatched) > _SHOWN else ""
    return (
        f"this LoRA has {len(unmatched)} modules, and this decoder can take none of them ({shown}{more}). It was "
        "probably trained for another model: Inspect LoRA shows what it holds"
    )
