"""At which times a training step looks: t = 1 is noise, t = 0 the song (spec/lora.md §1.5, §2.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..tasks import VARIANTS, Variant

DISCRETE_STEPS = 8
AUTO, DISCRETE, REFERENCE, LOGIT_NORMAL, UNIFORM = "auto", "discrete", "reference", "logit-normal", "uniform"
KINDS = (AUTO, DISCRETE, REFERENCE, LOGIT_NORMAL, UNIFORM)
REFERENCE_DROPOUT = 0.15  # of the model's own training (spec/lora.md §1.5)


class TimeOptions(Protocol):
    """What of the options of a run is about times."""

    @property
    def times(self) -> str: ...
    @property
    def shift(self) -> float | None: ...
    @property
    def mu(self) -> float: ...
    @property
    def sigma(self) -> float: ...
    @property
    def condition_dropout(self) -> float | None: ...


@dataclass(frozen=True)
class Times:
    """A distribution of times.

    Attributes:
        kind: "discrete" (the eight times that a distilled decoder samples at), "reference" (the larger of two draws
            of sigmoid(N * sigma + mu)), "logit-normal" (one such draw), "uniform".
        mu, sigma: of the normal numbers.
        shift: t becomes shift * t / (1 + (shift - 1) * t); of discrete and uniform times.

    Raises:
        ValueError: for a kind that there is not, or a shift or sigma that is not above zero.
    """

    kind: str
    mu: float = -0.4
    sigma: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS[1:]:
            raise ValueError(f"times: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if not (self.shift > 0 and self.sigma > 0):
            raise ValueError(f"times: shift and sigma must be above 0, got {self.shift} and {self.sigma}")

    def draw(self, generator: torch.Generator, count: int) -> Tensor:
        """`count` independent times [count], fp32 in 0 .. 1, on the CPU."""
        if self.kind == DISCRETE:
            return discrete_times(self.shift)[torch.randint(DISCRETE_STEPS, (count,), generator=generator)]
        if self.kind == UNIFORM:
            return shifted(torch.rand(count, generator=generator), self.shift)
        draws = 2 if self.kind == REFERENCE else 1
        normal = torch.randn(count, draws, generator=generator)
        return torch.sigmoid(normal * self.sigma + self.mu).amax(dim=1)

    def grid(self, count: int) -> Tensor:
        """`count` fixed times [count], fp32, falling: the discrete ones in turn, else evenly spread over 0 .. 1."""
        if self.kind == DISCRETE:
            return discrete_times(self.shift)[torch.arange(count) % DISCRETE_STEPS]
        return 1 - (torch.arange(count, dtype=torch.float32) + 0.5) / count


def shifted(t: Tensor, shift: float) -> Tensor:
    """shift * t / (1 + (shift - 1) * t): 0 and 1 stay."""
    return shift * t / (1 + (shift - 1) * t)


def discrete_times(shift: float) -> Tensor:
    """The eight times of a distilled decoder, falling from 1 [8], fp32."""
    return shifted(torch.arange(DISCRETE_STEPS, 0, -1, dtype=torch.float32) / DISCRETE_STEPS, shift)


def times_for(options: TimeOptions, variant: str) -> Times:
    """The times that `options` ask for; "auto" is what the variant was made with: discrete where it snaps its times,
    else the reference.

    Raises:
        ValueError: for a variant or a kind of times that there is not.
    """
    row = _variant(variant)
    kind = options.times
    if kind == AUTO:
        kind = DISCRETE if row.snaps_times else REFERENCE
    own = row.shift if kind == DISCRETE else 1.0
    return Times(kind, options.mu, options.sigma, own if options.shift is None else options.shift)


def condition_dropout_for(options: TimeOptions, times: Times) -> float:
    """The share of items that see no condition; None in the options is 0.15, and 0 for discrete times: those decoders
    are sampled without guidance."""
    if options.condition_dropout is not None:
        return options.condition_dropout
    return 0.0 if times.kind == DISCRETE else REFERENCE_DROPOUT


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {name!r}")
    return VARIANTS[name]
