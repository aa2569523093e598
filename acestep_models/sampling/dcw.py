"""Wavelet correction after each step: pushes slow and fast parts away from the estimate (spec/audio.md §6.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DCW_MODES = ("low", "high", "double", "pix")
ROOT_HALF = 0.5**0.5


@dataclass(frozen=True)
class DCW:
    """What is corrected and how strongly; upstream's own strengths by default.

    Attributes:
        mode: the slow half of the spectrum, the fast half, both ("double"), or "pix" for the latents themselves.
        scaler: strength, 0 to 1; in mode "double" that of the slow half.
        high_scaler: strength of the fast half in mode "double", 0 to 1; no other mode reads it.

    Raises:
        ValueError: for an unknown mode or a strength out of range.
    """

    mode: str = "double"
    scaler: float = 0.05
    high_scaler: float = 0.02

    def __post_init__(self) -> None:
        if self.mode not in DCW_MODES:
            raise ValueError(f"dcw mode: expected one of {', '.join(DCW_MODES)}, got {self.mode!r}")
        for name, value in (("scaler", self.scaler), ("high_scaler", self.high_scaler)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"dcw {name}: expected 0 to 1, got {value:g}")

    def strengths(self, t: float) -> tuple[float, float]:
        """How far slow and fast half move after a step from time `t`.

        The slow half moves most while there is much noise, the fast one when there is little.
        """
        table = {
            "low": (t * self.scaler, 0.0),
            "high": (0.0, (1.0 - t) * self.scaler),
            "double": (t * self.scaler, (1.0 - t) * self.high_scaler),
            "pix": (self.scaler, self.scaler),
        }
        return table[self.mode]

    def post_step(self, x: Tensor, music: Tensor, t: float) -> Tensor:
        """`x` [B, 64, T] after a step from time `t`, corrected against the estimate `music` [B, 64, T] at `t`."""
        # The transform is linear, so that of the difference is all it takes; with equal strengths it is "pix".
        slow, fast = haar(x - music)
        slow_strength, fast_strength = self.strengths(t)
        return x + unhaar(slow_strength * slow, fast_strength * fast, x.shape[-1])


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Slow and fast half [B, C, ceil(T/2)] of x [B, C, T], orthonormal; an odd T gets a zero at its end."""
    first, second = F.pad(x, (0, x.shape[-1] % 2)).unflatten(-1, (-1, 2)).unbind(-1)  # [B, C, ceil(T/2)]
    return (first + second) * ROOT_HALF, (first - second) * ROOT_HALF


def unhaar(slow: Tensor, fast: Tensor, frames: int) -> Tensor:
    """What `haar` took apart, [B, C, frames]."""
    pairs = torch.stack([(slow + fast) * ROOT_HALF, (slow - fast) * ROOT_HALF], dim=-1)  # [B, C, ceil(T/2), 2]
    return pairs.flatten(-2)[..., :frames]
