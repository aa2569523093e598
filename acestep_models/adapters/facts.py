"""What a file and its tensors tell about an adapter: ranks, alphas, the width, and what its author wrote down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .adapter import AdapterFacts
from .alphas import Scale
from .delta import Delta, DoRA
from .match import width_of
from .source import Source

# What authors and trainers call a fact, in the metadata of the file or in adapter_config.json.
WRITTEN = {
    "base_variant": ("base_variant", "model_variant"),
    "trigger": ("trigger", "trigger_word", "custom_tag", "modelspec.trigger_phrase"),
    "trigger_position": ("trigger_position", "tag_position"),
    "conditioning": ("conditioning", "conditioning_profile"),
}


def gather_facts(source: Source, deltas: Mapping[str, Delta], scales: Sequence[Scale]) -> AdapterFacts:
    """Everything but the family, which the keys tell."""
    known = {**source.config, **source.header.metadata}
    return AdapterFacts(
        family="",
        ranks=tuple(sorted({delta.rank for delta in deltas.values() if delta.rank is not None})),
        alphas=tuple(sorted({scale.alpha for scale in scales if scale.alpha is not None})),
        width=width_of({name: delta.shape for name, delta in deltas.items()}),
        metadata=dict(source.header.metadata),
        notes=(*source.notes, *_doubts(source.config, deltas)),
        alpha_guessed=any(scale.guessed for scale in scales),
        **{fact: _text(known, names) for fact, names in WRITTEN.items()},
    )


def _doubts(config: Mapping[str, Any], deltas: Mapping[str, Delta]) -> Iterator[str]:
    if config.get("use_dora") is True and not any(isinstance(delta, DoRA) for delta in deltas.values()):
        yield "its config says DoRA, but the file has no magnitudes: it is applied as a plain LoRA"


def _text(known: Mapping[str, Any], names: Iterable[str]) -> str | None:
    found = (known.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value), None)
