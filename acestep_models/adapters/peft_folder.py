"""The adapter_config.json of a PEFT folder, for LoRA, DoRA and LoKr (spec/lora.md §3.1, §3.3)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .adapter import Adapter
from .delta import Delta, DoRA, LoKr, LowRank

_COMMON = {"task_type": None, "base_model_name_or_path": None, "inference_mode": True}


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """The config of an adapter of LoRAs, of DoRAs, or of LoKrs that `why_not` has nothing against; every module by its
    full name."""
    if _kinds(adapter) == {LoKr.kind}:
        return _lokr_config(adapter)
    ranks = {name: _low_rank(delta).rank for name, delta in adapter.deltas.items()}
    alphas = {name: _plain(low_rank_alpha(_low_rank(delta))) for name, delta in adapter.deltas.items()}
    return {
        "peft_type": "LORA",
        **_COMMON,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": any(delta.kind == "dora" for delta in adapter.deltas.values()),
        **_with_patterns(ranks, alphas, "lora_alpha"),
        "target_modules": sorted(adapter.deltas),
    }


def why_not(adapter: Adapter) -> str | None:
    """Why PEFT cannot hold LoKrs as they are, None if it can: it works the sizes of both factors out by itself."""
    lokrs = {name: delta for name, delta in adapter.deltas.items() if isinstance(delta, LoKr)}
    if len(lokrs) != len(adapter.deltas):
        return "LoKr together with something else"
    for name, delta in lokrs.items():
        if len(delta.left) != 1 or delta.core is not None or any(side.ndim != 2 for side in delta.right):
            return f"LoKr with a factored w1 or of a convolution ({name})"
        if (delta.rank or 0) >= _longest(delta) / 2:
            return f"LoKr with a w2 factored at so high a rank ({name})"
    if _factor(list(lokrs.values())) is None:
        return "LoKr whose factors have other sizes than PEFT chooses"
    return None


def factors(size: int, factor: int) -> tuple[int, int]:
    """size as a product, as PEFT and LyCORIS choose it: `factor` first where it divides, else the divisor nearest
    below it, or below the square root for -1."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor < 0 else factor
    best = max(one for one in range(1, math.isqrt(size) + 1) if size % one == 0 and one <= limit)
    return best, size // best


def is_whole(rank: int, out2: int, in2: int) -> bool:
    """Whether PEFT leaves the large factor [out2, in2] of a LoKr whole at this rank."""
    return rank >= max(out2, in2) / 2


def low_rank_alpha(delta: LowRank) -> float:
    """The alpha that makes a LoRA's scale."""
    return delta.scale * delta.rank


def _lokr_config(adapter: Adapter) -> dict[str, Any]:
    lokrs = {name: delta for name, delta in adapter.deltas.items() if isinstance(delta, LoKr)}
    # PEFT leaves w2 whole where the rank is at least half of its longer side.
    ranks = {name: delta.rank or max(1, -(-_longest(delta) // 2)) for name, delta in lokrs.items()}
    alphas = {name: _plain(delta.scale * ranks[name]) for name, delta in lokrs.items()}
    return {
        "peft_type": "LOKR",
        **_COMMON,
        "rank_dropout": 0.0,
        "module_dropout": 0.0,
        "use_effective_conv2d": False,
        "decompose_both": False,
        "decompose_factor": _factor(list(lokrs.values())),
        **_with_patterns(ranks, alphas, "alpha"),
        "target_modules": sorted(lokrs),
    }


def _with_patterns(ranks: Mapping[str, int], alphas: Mapping[str, float], alpha_key: str) -> dict[str, Any]:
    rank, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    return {
        "r": rank,
        alpha_key: alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
    }


def _kinds(adapter: Adapter) -> set[str]:
    return {delta.kind for delta in adapter.deltas.values()}


def _factor(deltas: list[LoKr]) -> int | None:
    """PEFT's decompose_factor that gives the sizes of every w1, None if there is none."""
    sizes = {pair for delta in deltas for pair in zip(delta.shape, delta.left[0].shape, strict=True)}
    candidates = (-1, *sorted({first for _, first in sizes}))
    return next((one for one in candidates if all(factors(size, one)[0] == first for size, first in sizes)), None)


def _longest(delta: LoKr) -> int:
    """The longer side of w2."""
    out, width = (size // first for size, first in zip(delta.shape, delta.left[0].shape, strict=True))
    return max(out, width)


def _low_rank(delta: Delta) -> LowRank:
    inner = delta.delta if isinstance(delta, DoRA) else delta
    assert isinstance(inner, LowRank)  # the writer lets nothing else through
    return inner


def _plain(value: float) -> float:
    """Whole numbers without a point: some readers take nothing else. Else what float32 can tell apart."""
    short = float(f"{value:.7g}")
    return int(short) if short.is_integer() else value
