"""Which layers of the decoder are trained: groups of them, and their sizes from the config (spec/lora.md §3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...dit.config import DiTConfig

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
TARGETS: dict[str, tuple[str, ...]] = {
    "self_attention": tuple(f"self_attn.{name}" for name in _PROJECTIONS),
    "cross_attention": tuple(f"cross_attn.{name}" for name in _PROJECTIONS),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}


class Target(NamedTuple):
    """One layer [out, in] by its name in the decoder."""

    name: str
    out: int
    width: int


def check_targets(targets: Sequence[str]) -> None:
    """Raises ValueError for no targets, one that there is not, or one twice."""
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets or len(set(targets)) != len(targets):
        raise ValueError(f"targets: expected some of {', '.join(TARGETS)}, each once, got {list(targets)}")


def targets_of(config: DiTConfig, targets: Sequence[str]) -> Iterator[Target]:
    """Every layer of these groups, in the decoder's order.

    Raises:
        ValueError: for a group that there is not.
    """
    check_targets(targets)
    for index in range(config.num_hidden_layers):
        for group in TARGETS:
            for name in TARGETS[group] if group in targets else ():
                yield Target(f"layers.{index}.{name}", *_size(config, name))


def _size(config: DiTConfig, name: str) -> tuple[int, int]:
    """[out, in]; keys and values of the cross-attention come from the embedded condition, which is as wide."""
    shape = config.decoder_shape
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "q_proj": (queries, shape.width),
        "k_proj": (keys, shape.width),
        "v_proj": (keys, shape.width),
        "o_proj": (shape.width, queries),
        "gate_proj": (shape.hidden, shape.width),
        "up_proj": (shape.hidden, shape.width),
        "down_proj": (shape.width, shape.hidden),
    }
    return sizes[name.rpartition(".")[2]]
