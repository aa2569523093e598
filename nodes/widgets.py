"""Inputs that several nodes share, and what their `auto` means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from ..acestep_models.blueprint import MAX_SEED
from ..acestep_models.pipelines.kept import CONTEXT_SECONDS, LEAST_CONTEXT
from ..acestep_models.planner.lm import LM
from ..acestep_models.planner.sampling import HOTTEST
from ..acestep_models.sampling.schedule import Schedule, count_steps
from ..acestep_models.tasks import VARIANTS, Variant
from ..acestep_models.units import CODEBOOK_SIZE, MAX_SECONDS
from .host.schema import AUTO, KEEP_SEED, io, socket
from .types import Blueprint, Conditioner, Lm, Reference, Sampling, Source

AUTO_NUMBER = -1


def given(value: Any) -> Any:
    """None for a widget that stands on auto, else its value."""
    return None if value in (AUTO, AUTO_NUMBER) else value


def or_else(value: Any, default: Any) -> Any:
    """What a linked input, which validation does not know yet, is taken for."""
    return default if value is None else value


def one_of(name: str, value: str, options: tuple[str, ...]) -> str:
    """The value, if it is one of a list: older hosts let any other through.

    Raises:
        ValueError: names the list.
    """
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(options)}; got {value!r}")
    return value


def answer(check: Callable[[], object]) -> bool | str:
    """What the host asks of `validate_inputs`: True, or the complaint that `check` raises."""
    try:
        check()
    except (ValueError, TypeError) as error:
        return str(error)
    return True


def wire(name: str, value: Any, kind: type, origin: str) -> Any:
    """What came over a wire, if it is of that kind: a prompt of the API can put anything there.

    Raises:
        TypeError: names the input and where it should come from.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected the {name} output of {origin}, got {type(value).__name__}")
    return value


def lm_wire(value: Any) -> LM:
    """As `wire`, for the planner."""
    return cast(LM, wire("lm", value, LM, "Load LM"))


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


def context_input(tooltip: str, optional: bool = False) -> Any:
    """How much of a song a part that goes on from it hears; an optional one is for experts."""
    return socket(
        io.Float,
        "context",
        default=CONTEXT_SECONDS,
        min=LEAST_CONTEXT,
        max=MAX_SECONDS,
        step=0.2,
        optional=optional,
        advanced=optional,
        tooltip=tooltip,
    )


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


def seed_socket(name: str, tooltip: str, after: Any = KEEP_SEED, **options: Any) -> Any:
    """A seed; `after` says whether another run changes it."""
    bounds = {"default": 0, "min": 0, "max": MAX_SEED, **options}
    return socket(io.Int, name, control_after_generate=after, tooltip=tooltip, **bounds)


def seed_input() -> Any:
    """The noise seed."""
    return seed_socket(
        "seed",
        "Another number, another take of the same song. Song 2 of a batch takes seed + 1, song 3 seed + 2 and "
        "so on, so each can be made again alone.",
        after=True,
    )


def lm_input() -> Any:
    """The wire from LoadLM."""
    return socket(Lm, "lm", tooltip="The planner, from Load LM.")


def lm_seed_input(what: str, songs: str) -> Any:
    """The planner's seed: it stays when the workflow runs again, so that only DiTSample's noise is another.

    `what` another number changes, and what the `songs` of a batch take.
    """
    return seed_socket(
        "seed",
        f"Another number, {what}. Leave it as it is, and a new run makes another take of the same song at "
        f"once. {songs}",
    )


def sampling_inputs(temperature: float = 0.85, min_p: bool = False) -> list[Any]:
    """How tokens are drawn."""
    part = (0.0, 1.0, 0.01)
    bold = "Higher is bolder, lower is safer. 0: always the likeliest token."
    least = "Only tokens at least so likely as this part of the likeliest. 0 = off."
    return [
        decimal("temperature", temperature, (0.0, HOTTEST, 0.05), bold, advanced=True),
        decimal("top_p", 0.9, part, "Only the likeliest tokens, up to this probability. 1 = off.", advanced=True),
        socket(
            io.Int,
            "top_k",
            default=0,
            min=0,
            max=CODEBOOK_SIZE,
            advanced=True,
            tooltip="Only so many of the likeliest tokens. 0 = off.",
        ),
        *([decimal("min_p", 0.0, part, least, advanced=True)] if min_p else []),
    ]


def describe_schedule(schedule: Schedule) -> tuple[str, ...]:
    """Times and guidance as they are used, for the node's own text; what is off is left out."""
    return _times_text(schedule), _guidance_text(schedule)


def _times_text(schedule: Schedule) -> str:
    how = "explicit times" if schedule.shift is None else f"shift {schedule.shift:g}"
    dcw = f", dcw {schedule.dcw.mode}" if schedule.dcw else ""
    return f"{count_steps(schedule.steps)}, {how}, {schedule.solver}{dcw}"


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


def model_input() -> Any:
    """The decoder."""
    return socket(io.Model, "model", tooltip="The decoder, from Load DiT; LoRA and shift nodes may be between.")


def base_model_input() -> Any:
    """The decoder of a task that only base models know."""
    return socket(
        io.Model,
        "model",
        tooltip="A base decoder, from Load DiT. Turbo models never learned this and are refused before anything runs; "
        "sft models may try.",
    )


def source_input(tooltip: str, lazy: bool = False) -> Any:
    """The wire from EncodeSource; a lazy one is not made before the node has said that it may run."""
    return socket(Source, "source", lazy=lazy, tooltip=tooltip)


def lazy_blueprint_input(tooltip: str, optional: bool = False) -> Any:
    """The song on paper, not planned before the node has said that it may run."""
    return socket(Blueprint, "blueprint", lazy=True, optional=optional, tooltip=tooltip)


def reference_input(lazy: bool = False) -> Any:
    """The wire from EncodeReference; a lazy one is not made before the node has said that it may run."""
    return socket(
        Reference,
        "reference",
        lazy=lazy,
        optional=True,
        tooltip="From EncodeReference: whose sound the song shall have. It changes voices and instruments, never "
        "melody or structure.",
    )
