"""What the LoRA nodes say: what a file holds, and what of it acts on a decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ..acestep_models.adapters.delta import Delta
from ..acestep_models.adapters.files import Adapter, Skipped
from ..acestep_models.adapters.match import Match

KINDS = {"lora": "LoRA", "lokr": "LoKr", "loha": "LoHa", "full": "whole differences", "dora": "DoRA"}
MOST_LISTED = 8


def describe_adapter(name: str, adapter: Adapter) -> tuple[str, ...]:
    """The file's own words and numbers, one line each."""
    facts = adapter.facts
    kinds = Counter(KINDS.get(delta.kind, delta.kind) for delta in adapter.deltas.values())
    place = f" ({facts.trigger_position})" if facts.trigger_position else ""
    return (
        f"lora: {name}: {', '.join(f'{kind} for {count} modules' for kind, count in kinds.items())}, {facts.family}",
        f"rank: {_numbers(facts.ranks)}, alpha: {_numbers(facts.alphas)}, {_scales(adapter.deltas.values())}",
        f"trained on: {facts.base_variant}" if facts.base_variant else "",
        f"trigger: {facts.trigger}{place}" if facts.trigger else "",
        f"conditioning: {facts.conditioning}" if facts.conditioning else "",
        *facts.notes,
        *_skipped("of the file not used", adapter.skipped),
    )


def describe_match(adapter: Adapter, found: Match, deltas: Mapping[str, Delta], strength: float) -> tuple[str, ...]:
    """How many modules fit, which do not and why, and how strongly it acts."""
    wanted = "" if len(deltas) == len(found.deltas) else f", {len(deltas)} of them used by multipliers and layers"
    off = " (off: the model is passed on as it is)" if not strength or not deltas else ""
    return (
        f"matched: {len(found.deltas)} of {len(adapter.deltas)} modules{wanted}",
        *_skipped("not matched", found.unmatched),
        f"strength: {strength:g}{off}",
    )


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "none"


def _scales(deltas: Iterable[Delta]) -> str:
    """Every alpha / rank that occurs."""
    inner = (getattr(delta, "delta", delta) for delta in deltas)
    return f"scale: {_numbers(sorted({float(getattr(delta, 'scale', 1.0)) for delta in inner}))}"


def _skipped(what: str, skipped: tuple[Skipped, ...]) -> tuple[str, ...]:
    """A reason a line with the keys it holds for, the first few by name."""
    reasons: dict[str, list[str]] = {}
    for one in skipped:
        reasons.setdefault(one.reason, []).append(one.key)
    return tuple(f"{what}: {_some(keys)}: {reason}" for reason, keys in reasons.items())


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - MOST_LISTED} more" if len(keys) > MOST_LISTED else ""
    return ", ".join(keys[:MOST_LISTED]) + more
