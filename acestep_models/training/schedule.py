"""The learning rate as a pure function of the step (spec/lora.md §1.6)."""

from __future__ import annotations

import math

START, END = 0.1, 0.01
LONGEST_WARMUP = 100


def warmup_steps(steps: int) -> int:
    """How many steps a run of `steps` warms up where nobody said."""
    return min(LONGEST_WARMUP, steps // 10)


def learning_rate(step: int, steps: int, peak: float, warmup: int | None = None) -> float:
    """The rate of step 0 .. steps - 1: a line from 0.1 to 1 of `peak` over `warmup` steps, then a cosine to 0.01.

    Raises:
        ValueError: for a step outside the run or a warm-up that is not shorter than it.
    """
    warmup = warmup_steps(steps) if warmup is None else warmup
    if not (0 <= step < steps):
        raise ValueError(f"step: expected 0 to {steps - 1}, got {step}")
    if not (0 <= warmup < steps):
        raise ValueError(f"warmup: expected 0 to {steps - 1} steps, got {warmup}")
    if step < warmup:
        return peak * (START + (1 - START) * step / warmup)
    done = (step - warmup) / (steps - warmup)
    return peak * (END + (1 - END) * 0.5 * (1 + math.cos(math.pi * done)))
