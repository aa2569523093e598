"""Inputs that every LoRA node has: which adapter, and the alpha of one that does not say its own."""

from __future__ import annotations

import math
from typing import Any

from .host import loras
from .host.schema import io, socket
from .widgets import AUTO_NUMBER, decimal

NONE = "none"
STRONGEST, MAX_ALPHA = 2.0, 100_000.0


def lora_input(name: str = "lora", optional: bool = False) -> Any:
    """A LoRA of ComfyUI's folders; an optional one may be none."""
    return socket(
        io.Combo,
        name,
        options=[*([NONE] if optional else []), *loras.lora_names()],
        default=NONE if optional else None,
        optional=optional,
        tooltip="A .safetensors file or a PEFT folder (adapter_config.json with adapter_model.safetensors) in "
        f"models/loras; adapters of every trainer for ACE-Step 1.5.{f' {NONE}: one less.' if optional else ''}",
    )


def alpha_input() -> Any:
    """Alpha for files that have none."""
    return decimal(
        "alpha",
        float(AUTO_NUMBER),
        (float(AUTO_NUMBER), MAX_ALPHA, 0.5),
        "Only for files that say no alpha: that of the training; the authors' trainer takes twice the rank. "
        f"{AUTO_NUMBER} = as in the file, else a number above 0.",
        advanced=True,
    )


def check_finite(**numbers: float) -> None:
    """Raises a ValueError for an infinite number or none: the host's range lets NaN through."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name}: expected a number from {-STRONGEST:g} to {STRONGEST:g}, got {number}")


def given_alpha(alpha: float | None) -> float | None:
    """The alpha of a user, None where the file's own counts; the widget's range holds numbers that are none.

    Raises:
        ValueError: for 0 and everything below it but -1.
    """
    if alpha is None or alpha == AUTO_NUMBER:
        return None
    if not 0 < alpha <= MAX_ALPHA:  # also refuses what is not a number
        raise ValueError(
            f"alpha: expected {AUTO_NUMBER} (as in the file) or a number above 0, at most {MAX_ALPHA:g}; got {alpha:g}"
        )
    return alpha
