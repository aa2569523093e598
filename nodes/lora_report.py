"""What the LoRA nodes say: what a file holds, and what of it acts on a decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ..acestep_models.adapters.delta import Delta, DoRA, Full, LowRank
from ..acestep_models.adapters.files import Adapter, Skipped
from ..acestep_models.adapters.match import Match
from .host.schema import first_few

KINDS = {"lora": "LoRA", "lokr": "LoKr", "loha": "LoHa", "full": "whole differences", "dora": "DoRA"}
OFF = "strength: 0 (off: the model is passed on as it is)"


def describe_adapter(name: str, adapter: Adapter) -> tuple[str, ...]:
    """The file's own words and numbers, one line each."""
    facts = adapter.facts
    kinds = Counter(KINDS.get(delta.kind, delta.kind) for delta in adapter.deltas.values())
    place = f" ({_line(facts.trigger_position)})" if facts.trigger_position else ""
    return (
        f"lora: {name}: {', '.join(f'{kind} for {modules(count)}' for kind, count in kinds.items())}, {facts.family}",
        f"rank: {_numbers(facts.ranks)}, alpha: {_numbers(facts.alphas)}, {_scales(adapter.deltas.values())}",
        f"trained on: {_line(facts.base_variant)}" if facts.base_variant else "",
        f"trigger: {_line(facts.trigger)}{place}" if facts.trigger else "",
        f"conditioning: {_line(facts.conditioning)}" if facts.conditioning else "",
        *facts.notes,
        "this LoRA changes nothing: its weights or its alpha are 0" if not _acts(adapter) else "",
        *_skipped("of the file not used", adapter.skipped),
    )


def describe_match(adapter: Adapter, found: Match, deltas: Mapping[str, Delta], strength: float) -> tuple[str, ...]:
    """How many modules fit, which do not and why, and how strongly it acts."""
    wanted = "" if len(deltas) == len(found.deltas) else f", {len(deltas)} of them used by multipliers and layers"
    left = f"strength: {strength:g}" if deltas else "nothing of it is left by multipliers and layers"
    return (
        f"matched: {len(found.deltas)} of {modules(len(adapter.deltas))}{wanted}",
        *_skipped("not matched", found.unmatched),
        left if strength else OFF,
    )


def modules(count: int) -> str:
    """A number of modules in words."""
    return f"{count} module{'' if count == 1 else 's'}"


def _line(text: str) -> str:
    """A text of some author without its line breaks: every line of the report says what it is about."""
    return " ".join(text.split())


def _acts(adapter: Adapter) -> bool:
    """Whether anything surely may change; untrained adapters have ups of zeros."""
    return any(map(_changes, adapter.deltas.values()))


def _changes(delta: Delta) -> bool:
    if isinstance(delta, DoRA):
        return True  # lengths too
    if isinstance(delta, Full):
        return bool(delta.diff.any())
    halves = (delta.up, delta.down) if isinstance(delta, LowRank) else ()
    return getattr(delta, "scale", 1.0) != 0 and all(bool(half.any()) for half in halves)


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
    return tuple(f"{what}: {first_few(keys)}: {reason}" for reason, keys in reasons.items())
