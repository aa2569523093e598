"""How strong an adapter was meant to be: alpha, its sources and the scale it makes (spec/lora.md §3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .patterns import Patterns

NO_ALPHA = (
    "no alpha in the file: it is applied at scale 1; if it comes from the authors' trainer or Side-Step, give alpha = "
    "2 x rank"
)

# In the header of a file whose alphas nobody knew when it was written.
ALPHA_GUESSED, YES = "alpha_guessed", "true"


@dataclass(frozen=True)
class Scale:
    """What the delta of one module is multiplied by.

    Attributes:
        alpha: where it comes from; None where nobody knows one.
        guessed: whether an alpha was needed and none was found.
        asked: the rank that the config names, where the weights have another.
    """

    factor: float
    alpha: float | None
    guessed: bool = False
    asked: float | None = None


@dataclass(frozen=True)
class AlphaRules:
    """Where alphas come from that are not stored as tensors.

    Attributes:
        config: PEFT's adapter_config.json, may be empty.
        given: the user's, for files that do not say it.
        guessed: whether the file was written with alphas that nobody knew: what has the scale 1 by them has none.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    given: float | None = None
    guessed: bool = False
    _patterns: Patterns = field(default_factory=Patterns, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.given is not None and not (math.isfinite(self.given) and self.given > 0):
            raise ValueError(f"alpha is {self.given}, expected a number above 0; leave it out to use the file's own")

    def scale(self, names: tuple[str, ...], rank: int | None, stored: float | None) -> Scale:
        """The scale of one module: its own tensor, the config, the user, or 1.

        Args:
            names: how a config may call the module.
            rank: from the shapes; None where nothing is factored, so that LyCORIS has no use for an alpha.
            stored: the alpha beside the matrices.

        Raises:
            ValueError: if the config holds something else than numbers.
        """
        said = self._said(names, rank, stored)
        if said is not None and not (self.guessed and rank is not None and said.factor == 1):
            return said
        return Scale(1.0, None, rank is not None) if self.given is None else _scale(self.given, rank)

    def notes(self, scales: Sequence[Scale]) -> tuple[str, ...]:
        """What a user should know about the scales that were made by these rules."""
        notes = [f"{note} (in {count} of {len(scales)} modules)" for note, count in _odd(scales) if count]
        if other := [scale for scale in scales if scale.asked is not None]:
            notes.append(
                f"the config says rank {other[0].asked:g} and the weights have another (in {len(other)} of "
                f"{len(scales)} modules): it may belong to other weights. Its alpha makes scale "
                f"{other[0].factor:g} with these; if that is too strong or too weak, give alpha"
            )
        if any(scale.guessed for scale in scales):
            notes.append(NO_ALPHA)
        elif self.given is not None and all(scale.alpha != self.given for scale in scales):
            notes.append(
                f"the alpha that was given ({self.given:g}) has no effect: the file has its own, or needs none"
            )
        return tuple(notes)

    def _said(self, names: tuple[str, ...], rank: int | None, stored: float | None) -> Scale | None:
        """The scale by the file or the config, None where they say nothing."""
        if stored is not None:
            return _scale(stored, rank)
        configured = self._configured(names)
        if configured is None:
            return None
        asked = self._pattern("rank_pattern", names, "r")
        if rank is None or asked is None or asked == rank:
            return self._peft_scale(names, rank, configured)
        # The config belongs to weights of another rank: the user knows better, if they say so.
        return replace(self._peft_scale(names, rank, configured), asked=asked) if self.given is None else None

    def _peft_scale(self, names: tuple[str, ...], rank: int | None, alpha: float) -> Scale:
        if rank is None:  # PEFT's LoKr divides by the rank it was asked for even where it factored nothing
            asked = self._pattern("rank_pattern", names, "r")
            return Scale(alpha / asked if asked else 1.0, alpha)
        return Scale(alpha / (math.sqrt(rank) if self.config.get("use_rslora") is True else rank), alpha)

    def _configured(self, names: tuple[str, ...]) -> float | None:
        return self._pattern("alpha_pattern", names, "lora_alpha" if "lora_alpha" in self.config else "alpha")

    def _pattern(self, table: str, names: tuple[str, ...], otherwise: str) -> float | None:
        """A number of a table whose keys match as PEFT's do: the whole name or its end, as a regular expression."""
        rows = self.config.get(table) or {}
        if not isinstance(rows, Mapping):
            raise ValueError(f"adapter_config.json: {table} is {rows!r}, expected an object; correct it")
        for pattern, value in rows.items():
            if any(self._patterns.matches(table, pattern, name) for name in names):
                return _number(f"{table}[{pattern!r}]", value)
        value = self.config.get(otherwise)
        return None if value is None else _number(otherwise, value)


def _odd(scales: Sequence[Scale]) -> tuple[tuple[str, int], ...]:
    """What an alpha does that is not above 0, and to how many modules."""
    return (
        ("alpha 0: no effect", sum(scale.factor == 0 for scale in scales)),
        ("alpha below 0: it turns the effect round", sum(scale.factor < 0 for scale in scales)),
    )


def _scale(alpha: float, rank: int | None) -> Scale:
    return Scale(1.0 if rank is None else alpha / rank, alpha)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"adapter_config.json: {name} is {value!r}, expected a number; correct it")
    return float(value)
