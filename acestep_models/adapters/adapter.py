"""An adapter as data: what it adds to which module, what its file says about itself, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .delta import Delta


@dataclass(frozen=True)
class Skipped:
    """A key of the file (or a module of the adapter) that has no effect, and why."""

    key: str
    reason: str


@dataclass(frozen=True, eq=False)
class AdapterFacts:
    """What is known of an adapter besides its numbers.

    Attributes:
        family: how its file names things, in words: "PEFT", "kohya", "LyCORIS", ...
        ranks: every rank that occurs, ascending.
        alphas: every alpha that was read or given, ascending; empty where there is none.
        width: the width of the decoder it was trained for (2048 is the 2B, 2560 the XL), None where no module shows it.
        base_variant: what it was trained on, as its author wrote it.
        trigger, trigger_position: the word that calls it, and whether that stands before or after the caption.
        conditioning: the conditioning profile of its training.
        metadata: the free metadata of the file.
        notes: what a user should know, each a sentence.
        alpha_guessed: whether a scale is 1 only because nobody said an alpha.
    """

    family: str
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    width: int | None = None
    base_variant: str | None = None
    trigger: str | None = None
    trigger_position: str | None = None
    conditioning: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alpha_guessed: bool = False


@dataclass(frozen=True, eq=False)
class Adapter:
    """Deltas by the name of their module in our decoder, such as "layers.0.self_attn.q_proj"."""

    deltas: Mapping[str, Delta]
    facts: AdapterFacts
    skipped: tuple[Skipped, ...] = ()
