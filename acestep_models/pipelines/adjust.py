"""Latents moved and stretched before they are decoded."""

from __future__ import annotations

import math

from torch import Tensor

from ..errors import check_finite

MAX_ADJUST_SHIFT = 10.0
MAX_RESCALE = 10.0


def adjust(latents: Tensor, shift: float = 0.0, rescale: float = 1.0) -> Tensor:
    """latents · rescale + shift, [B, 64, T]; shift 0 and rescale 1 leave every bit (spec/audio.md §5.7).

    Raises:
        ValueError: for a number out of its range.
        ACEStepError: for latents that are not finite.
    """
    if not (math.isfinite(shift) and abs(shift) <= MAX_ADJUST_SHIFT):
        raise ValueError(f"shift: expected -{MAX_ADJUST_SHIFT:g} to {MAX_ADJUST_SHIFT:g}, got {shift:g}")
    if not 0.0 < rescale <= MAX_RESCALE:
        raise ValueError(f"rescale: expected above 0 and at most {MAX_RESCALE:g}, got {rescale:g}")
    return check_finite("sampler (latents to adjust)", latents) * rescale + shift
