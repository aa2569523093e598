"""How strong an adapter was meant to be: alpha, its sources and the scale it makes (spec/lora.md §3.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NO_ALPHA = (
    "no alpha in the file: it is applied at scale 1; if it comes from the authors' trainer or Side-Step, give alpha = "
    "2 x rank"
)


@dataclass(frozen=True)
class Scale:
    """What the delta of one module is multiplied by.

    Attributes:
        alpha: where it comes from; None where nobody knows one.
        guessed: whether an alpha was needed and none was found.
    """

    factor: float
    alpha: float | None
    guessed: bool = False


@dataclass(frozen=True)
class AlphaRules:
    """Where alphas come from that are not stored as tensors.

    Attributes:
        config: PEFT's adapter_config.json, may be empty.
        given: the user's, for files that do not say it.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    given: float | None = None

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
        if stored is not None:
            return _scale(stored, rank)
        configured = self._configured(names)
        if configured is not None:
            return self._peft_scale(names, rank, configured)
        return Scale(1.0, None, rank is not None) if self.given is None else _scale(self.given, rank)

    def notes(self, scales: Sequence[Scale]) -> tuple[str, ...]:
        """What a user should know about the scales that were made by these rules."""
        if any(scale.guessed for scale in scales):
            return (NO_ALPHA,)
        if self.given is None or any(scale.alpha == self.given for scale in scales):
            return ()
        return (f"the alpha that was given ({self.given:g}) has no effect: the file has its own, or needs none",)

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
            if any(_matches(table, pattern, name) for name in names):
                return _number(f"{table}[{pattern!r}]", value)
        value = self.config.get(otherwise)
        return None if value is None else _number(otherwise, value)


def _scale(alpha: float, rank: int | None) -> Scale:
    return Scale(1.0 if rank is None else alpha / rank, alpha)


def _matches(table: str, pattern: str, name: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", name) is not None
    except re.error as error:
        raise ValueError(
            f"adapter_config.json: {table} has the key {pattern!r}, which is no regular expression ({error}); "
            "correct it"
        ) from error


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"adapter_config.json: {name} is {value!r}, expected a number; correct it")
    return float(value)
