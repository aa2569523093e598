"""Inputs that several nodes share, and what their `auto` means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..acestep_models.sampling.schedule import Schedule
from ..acestep_models.tasks import VARIANTS, Variant
from .host.schema import AUTO, io, socket
from .types import Blueprint, Conditioner, Sampling

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


def decimal(name: str, default: float, bounds: tuple[float, float, float], tooltip: str, advanced: bool = False) -> Any:
    """A number with (lowest, highest, step)."""
    low, high, step = bounds
    return socket(io.Float, name, default=default, min=low, max=high, step=step, tooltip=tooltip, advanced=advanced)


def choice(name: str, options: Iterable[str], tooltip: str, advanced: bool = False) -> Any:
    """A list of options with auto before them."""
    return socket(io.Combo, name, options=[AUTO, *options], default=AUTO, tooltip=tooltip, advanced=advanced)


def conditioner_input() -> Any:
    """The wire from Load DiT that reads text."""
    return socket(Conditioner, "conditioner", tooltip="What reads your text, from the conditioner output of Load DiT.")


def blueprint_input() -> Any:
    """The wire that carries the song on paper."""
    return socket(Blueprint, "blueprint", tooltip="The song on paper, from a Blueprint node. Several make a batch.")


def sampling_input() -> Any:
    """The wire from SamplingOptions."""
    return socket(
        Sampling,
        "sampling",
        optional=True,
        tooltip="From SamplingOptions. Not connected: the defaults of the loaded variant.",
    )


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


def describe_schedule(schedule: Schedule) -> tuple[str, ...]:
    """Times and guidance as they are used, for the node's own text; what is off is left out."""
    return _times_text(schedule), _guidance_text(schedule)


def _times_text(schedule: Schedule) -> str:
    how = "explicit times" if schedule.shift is None else f"shift {schedule.shift:g}"
    dcw = f", dcw {schedule.dcw.mode}" if schedule.dcw else ""
    return f"{schedule.steps} steps, {how}, {schedule.solver}{dcw}"


def _guidance_text(schedule: Schedule) -> str:
    start, end = schedule.interval
    kind = f"{schedule.guidance}, scale {schedule.scale:g}" if schedule.scale > 1 else "none"
    parts = (
        f"guidance: {kind}",
        f"from t {start:g} to {end:g}" if schedule.scale > 1 and (start, end) != (0.0, 1.0) else "",
        f"clamp {schedule.clamp:g}" if schedule.clamp else "",
        f"ema {schedule.ema:g}" if schedule.ema else "",
    )
    return ", ".join(part for part in parts if part)
