"""Inputs that several nodes share, and what their `auto` means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..acestep_models.tasks import VARIANTS, Variant
from .host.schema import AUTO, io, socket
from .types import Blueprint, Conditioner

AUTO_NUMBER = -1


def given(value: Any) -> Any:
    """None for a widget that stands on auto, else its value."""
    return None if value in (AUTO, AUTO_NUMBER) else value


def per_variant(value: Callable[[Variant], object]) -> str:
    """What each variant has by default, for tooltips: "8 (turbo, turbo-shift1), 50 (base, sft)"."""
    names: dict[str, list[str]] = {}
    for name, variant in VARIANTS.items():
        names.setdefault(f"{value(variant):g}", []).append(name)
    return "; ".join(f"{number} for {', '.join(group)}" for number, group in names.items())


def decimal(name: str, default: float, bounds: tuple[float, float, float], tooltip: str) -> Any:
    """A number with (lowest, highest, step)."""
    low, high, step = bounds
    return socket(io.Float, name, default=default, min=low, max=high, step=step, tooltip=tooltip)


def choice(name: str, options: Iterable[str], tooltip: str, advanced: bool = False) -> Any:
    """A list of options with auto before them."""
    return socket(io.Combo, name, options=[AUTO, *options], default=AUTO, tooltip=tooltip, advanced=advanced)


def conditioner_input() -> Any:
    """The wire from Load DiT that reads text."""
    return socket(Conditioner, "conditioner", tooltip="What reads your text, from the conditioner output of Load DiT.")


def blueprint_input() -> Any:
    """The wire that carries the song on paper."""
    return socket(Blueprint, "blueprint", tooltip="The song on paper, from a Blueprint node. Several make a batch.")


def seed_input() -> Any:
    """The noise seed."""
    return socket(
        io.Int,
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=True,
        tooltip="Another number, another take of the same song. Song 2 of a batch takes seed + 1, song 3 seed + 2 and "
        "so on, so each can be made again alone.",
    )
