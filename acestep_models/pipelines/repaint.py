"""Parts of a song again, the rest as it is (spec/audio.md §5.3, §5.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..dit.context import span_mask
from ..runtime import Runtime
from ..sampling.keep import Injection, injected_steps
from ..sampling.loop import PostStep
from ..sampling.schedule import Schedule
from .canvas import Canvas, blend
from .encode import ConditionerModels
from .generate import Decoder, Song, Take, follow, plan_steps
from .task import ConditionPlan, Work, encode_work

MAX_CROSSFADE_FRAMES = 250
MAX_CROSSFADE_SECONDS = 10.0
SHORTEST_FADE = 0.01  # seconds that a mode gives


@dataclass(frozen=True)
class RepaintSettings:
    """How tightly what is new is held to what is kept.

    Attributes:
        injection: share of the steps, 0 to 1, after which the kept part is put back into what the decoder sees next.
        latent_crossfade: latent frames of crossfade on the kept side of each edge, 0 to 250.
        crossfade: seconds of crossfade of the sound on the kept side of each edge, 0 to 10.

    Raises:
        ValueError: for a number out of its range.
    """

    injection: float
    latent_crossfade: int
    crossfade: float

    def __post_init__(self) -> None:
        for name, most in (
            ("injection", 1.0),
            ("latent_crossfade", MAX_CROSSFADE_FRAMES),
            ("crossfade", MAX_CROSSFADE_SECONDS),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"{name}: expected 0 to {most:g}, got {value:g}")


def _aggressive(strength: float) -> RepaintSettings:
    # Upstream takes all of the decoded sound here; we keep the rest bit for bit, and a cut without fade clicks.
    return RepaintSettings(0.0, 0, SHORTEST_FADE)


def _conservative(strength: float) -> RepaintSettings:
    return RepaintSettings(1.0, 25, 0.05)


def _balanced(strength: float) -> RepaintSettings:
    # Upstream's fade goes down to 0; never less than that of aggressive, for the same reason.
    held = 1.0 - strength
    return RepaintSettings(held, round(25 * held), max(SHORTEST_FADE, 0.05 * held))


MODES: dict[str, Callable[[float], RepaintSettings]] = {
    "balanced": _balanced,
    "conservative": _conservative,
    "aggressive": _aggressive,
}


def repaint_settings(mode: str, strength: float = 0.5) -> RepaintSettings:
    """The values of a mode; `strength` 0 (as conservative) to 1 (free) is only read by balanced (spec/audio.md §5.4).

    Raises:
        ValueError: for an unknown mode or a strength out of its range.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}; got {mode!r}")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength: expected 0 to 1, got {strength:g}")
    return MODES[mode](strength)


def repaint(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    take: Take,
    canvas: Canvas,
    settings: RepaintSettings,
) -> Song:
    """Songs as long as `canvas`, new in its spans; outside of spans and crossfades its latents, bit for bit.

    `canvas.splice(settings.crossfade)` does the same for their sound when it is decoded.

    Raises:
        ValueError: for a take that cannot be sampled.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    work = Work("repaint", canvas.source, spans=canvas.spans, reference=take.reference)
    schedule = plan_steps(decoder, take, work)
    plan = encode_work(runtime, conditioner, take.blueprints, work, canvas.frames)
    return fill(runtime, decoder, take, work, (schedule, plan), (canvas, settings))


def fill(
    runtime: Runtime,
    decoder: Decoder,
    take: Take,
    work: Work,
    planned: tuple[Schedule, ConditionPlan],
    held: tuple[Canvas, RepaintSettings],
) -> Song:
    """New in the spans of a canvas, kept around them, along what `plan_steps` and `encode_work` made for any task.

    `held` is the canvas, and how tightly what is new is held to it.
    """
    canvas, settings = held
    keep = _injecting(canvas, settings.injection, decoder.variant.distilled)
    song = follow(runtime, decoder, take, work, planned, keep)
    latents = blend(song.latents, canvas.source.latents, canvas.spans, settings.latent_crossfade)
    return Song(latents, replace(song.meta, song=canvas.song))


def _injecting(canvas: Canvas, share: float, distilled: bool) -> Callable[[Tensor, Schedule], PostStep]:
    """What `follow` asks to keep: everything outside the spans, put back after that share of the steps."""
    mask = span_mask(canvas.spans, canvas.frames)[None, None]  # [1, 1, T]

    def keep(noise: Tensor, schedule: Schedule) -> PostStep:
        steps = injected_steps(share, schedule.steps, distilled)
        return Injection(mask, canvas.source.latents, noise, steps)

    return keep
