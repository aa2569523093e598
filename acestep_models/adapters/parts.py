"""From the tensors of one module to its delta: LoRA, LoKr, LoHa, a whole difference, each with or without DoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from .delta import Delta, DoRA, Full, LoHa, LoKr, LowRank

Tensors = Mapping[str, Tensor]
ScaleOf = Callable[[int | None], float]
_F = TypeVar("_F", LowRank, LoKr, LoHa)

ALPHA, MAGNITUDE = "alpha", "magnitude"
# Parts that would change what the others mean.
NOT_READ = {"mid": "the core of a Tucker decomposition (lora_mid)", "scalar": "a scalar of LyCORIS"}


def build_delta(tensors: Tensors, scale_of: ScaleOf) -> Delta:
    """The delta of one module.

    Args:
        tensors: role -> tensor, roles as in names.LEAVES.
        scale_of: rank -> scale; the rank is None where nothing is factored.

    Raises:
        ValueError: if a part is missing, does not fit the others, or cannot be read; without a full stop.
    """
    for role, what in NOT_READ.items():
        if role in tensors:
            raise ValueError(f"holds {what}, which is not read here; save the adapter again as a plain LoRA")
    kinds = sorted({kind for role in tensors if (kind := kind_of(role))})
    if len(kinds) != 1:
        found = " and ".join(kinds) or f"nothing but {', '.join(sorted(tensors))}"
        raise ValueError(f"holds {found}, expected one kind of adapter; the file is damaged or was mixed up")
    delta = BUILDERS[kinds[0]](tensors, scale_of)
    return delta if MAGNITUDE not in tensors else DoRA(delta, row_lengths(tensors[MAGNITUDE], delta.shape[0]))


def kind_of(role: str) -> str | None:
    """The kind of adapter that a part belongs to, None for what goes with any."""
    if role in (ALPHA, MAGNITUDE):
        return None
    return {"down": LowRank.kind, "up": LowRank.kind, "diff": Full.kind}.get(role) or (
        LoKr.kind if role.startswith("lokr_") else LoHa.kind
    )


def row_lengths(magnitude: Tensor, out: int) -> Tensor:
    """The lengths of DoRA as [out]: PEFT saves [out] (convolutions [1, out, 1 ...]), LyCORIS [out, 1].

    Raises:
        ValueError: for LyCORIS's other kind, [1, in], which sets the length of columns; and for any other shape.
    """
    shape = tuple(magnitude.shape)
    rows = (out,) + (1,) * (len(shape) - 1)
    channels = (1, out) + (1,) * (len(shape) - 2)
    if shape == rows or (len(shape) > 2 and shape == channels):
        return magnitude.flatten()
    if len(shape) == 2 and shape[0] == 1:
        raise ValueError(
            f"the DoRA magnitudes {list(shape)} are lengths of columns, and only lengths of rows [{out}] are read; ask "
            "its author to merge it"
        )
    raise ValueError(f"the DoRA magnitudes have the shape {list(shape)}, expected [{out}]; the file is damaged")


def _low_rank(tensors: Tensors, scale_of: ScaleOf) -> LowRank:
    down, up = _both(tensors, "down", "up")
    return _with_scale(LowRank(down, up), scale_of)


def _lokr(tensors: Tensors, scale_of: ScaleOf) -> LoKr:
    left, right = _side(tensors, "lokr_w1"), _side(tensors, "lokr_w2")
    core = tensors.get("lokr_t2")
    if core is not None and len(right) != 2:
        raise ValueError("has lokr_t2 without lokr_w2_a and lokr_w2_b; the file is damaged")
    return _with_scale(LoKr(left, right, 1.0, core), scale_of)


def _loha(tensors: Tensors, scale_of: ScaleOf) -> LoHa:
    first = _both(tensors, "hada_w1_a", "hada_w1_b")
    second = _both(tensors, "hada_w2_a", "hada_w2_b")
    cores = _both(tensors, "hada_t1", "hada_t2") if tensors.keys() & {"hada_t1", "hada_t2"} else None
    return _with_scale(LoHa(first, second, 1.0, cores), scale_of)


def _with_scale(delta: _F, scale_of: ScaleOf) -> _F:
    """The same at its scale: the rank is known for sure once the factors were found to belong together."""
    return replace(delta, scale=scale_of(delta.rank))


def _full(tensors: Tensors, scale_of: ScaleOf) -> Full:
    return Full(tensors["diff"])


def _side(tensors: Tensors, name: str) -> tuple[Tensor, ...]:
    halves = (f"{name}_a", f"{name}_b")
    if name not in tensors:
        return _both(tensors, *halves)
    if tensors.keys() & set(halves):
        raise ValueError(f"has {name} whole and in halves; the file is damaged")
    return (tensors[name],)


def _both(tensors: Tensors, one: str, other: str) -> tuple[Tensor, Tensor]:
    missing = [role for role in (one, other) if role not in tensors]
    if missing:
        raise ValueError(
            f"half a pair: {' and '.join(missing)} missing beside {', '.join(sorted(tensors))}; the file is "
            "incomplete, fetch it again"
        )
    return tensors[one], tensors[other]


BUILDERS: dict[str, Callable[[Tensors, ScaleOf], Delta]] = {
    LowRank.kind: _low_rank,
    LoKr.kind: _lokr,
    LoHa.kind: _loha,
    Full.kind: _full,
}
