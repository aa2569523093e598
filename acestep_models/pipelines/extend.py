"""A song made longer: more of it behind its end, or an intro before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..audio.splice import Splice
from ..blueprint import Blueprint
from ..dit.context import task_context
from ..runtime import Runtime
from ..spans import Span
from ..tasks import instruction
from ..units import (
    CODE_RATE,
    FRAMES_PER_CODE,
    MAX_SECONDS,
    MIN_SECONDS,
    SAMPLE_RATE,
    frames_to_samples,
    frames_to_seconds,
    seconds_to_codes,
    snap_seconds,
)
from .canvas import Canvas, lay_out
from .encode import ConditionerModels, Conditioning, check_count, encode_tokens, read_codes, song_frames, stack_once
from .generate import Decoder, Song, Take, plan_steps
from .kept import CONTEXT_SECONDS, WHERE, Where, check_context, heard_codes, kept_codes
from .listen import Source
from .repaint import fill, repaint, repaint_settings
from .task import ConditionPlan, Work

NEW_SECONDS = 30.0  # where neither the settings nor the songs say
CONSERVATIVE = repaint_settings("conservative")  # what is heard stays what it is
CODED = "text2music+codes"


@dataclass(frozen=True)
class ExtendSettings:
    """How a source is made longer.

    Attributes:
        seconds: of the new part, to the nearest 0.2; None is the length of the songs, or 30.
        where: at the end of the source, or before its start.
        context: how many seconds of the source are heard beside the new part, 2 to 600.
        crossfade: seconds of the source's sound that are mixed with the new one next to it.

    Raises:
        ValueError: for a number out of its range.
    """

    seconds: float | None = None
    where: Where = "end"
    context: float = CONTEXT_SECONDS
    crossfade: float = CONSERVATIVE.crossfade

    def __post_init__(self) -> None:
        check_context(self.context)
        if self.where not in WHERE:
            raise ValueError(f"where: expected one of {', '.join(WHERE)}; got {self.where!r}")
        least = 1 / CODE_RATE
        if self.seconds is not None and not least <= self.seconds <= MAX_SECONDS:
            raise ValueError(f"seconds: expected {least:g} to {MAX_SECONDS:g} s of new music, got {self.seconds:g}")
        if not 0.0 <= self.crossfade <= self.context:
            raise ValueError(f"crossfade: expected 0 to the context of {self.context:g} s, got {self.crossfade:g}")


@dataclass(frozen=True, eq=False)
class Extended:
    """A longer song.

    Attributes:
        song: all of it; its latents are the source's own outside of the new part and 25 frames beside it.
        splice: what keeps the source's sound when it is decoded.
        seconds: of the new part.
        heard: codes of the source that were heard beside it, 5 a second.
    """

    song: Song
    splice: Splice
    seconds: float
    heard: int


def extend(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    take: Take,
    source: Source,
    settings: ExtendSettings = ExtendSettings(),
) -> Extended:
    """The source with a new part that the songs of the take describe; only that part and its context are sampled.

    Songs without codes are a repaint of what is not there yet. Songs with codes, of exactly the new part, are
    followed: the decoder reads them behind (or before) the source's own codes, so that they go on from it.

    Raises:
        ValueError: for a take that cannot be sampled, codes of another length than the new part, a crossfade that
            leaves nothing of the source, or more than 600 s.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    seconds = new_seconds(take.blueprints, settings.seconds)
    follows = follows_codes(take.blueprints, seconds)
    heard = heard_codes(source, settings.context)
    _check_room(source, seconds)
    edge = source.seconds
    canvas = lay_out(source, (Span(edge, edge + seconds) if settings.where == "end" else Span(-seconds, 0.0),))
    splice = canvas.splice(settings.crossfade)  # refuses a crossfade over all of the source before anything runs
    window, first = _window(canvas, FRAMES_PER_CODE * heard, settings.where)
    if follows:
        kept = kept_codes(runtime, conditioner, source, settings.context, settings.where)
        new = _follow_codes(runtime, decoder, conditioner, take, window, (kept, settings.where))
    else:
        new = repaint(runtime, decoder, conditioner, take, window, CONSERVATIVE)
    return Extended(_whole(canvas, new, first), splice, seconds, heard)


def new_seconds(blueprints: Sequence[Blueprint], seconds: float | None) -> float:
    """How long the new part is: `seconds` to the nearest 0.2, else the length of the songs, else 30.

    Raises:
        ValueError: for no song, more than 8, or songs of different length where that is asked for.
    """
    if seconds is not None:
        return snap_seconds(seconds)
    frames = song_frames(blueprints)
    told = any(blueprint.length is not None for blueprint in blueprints)
    return frames_to_seconds(frames) if told else NEW_SECONDS


def follows_codes(blueprints: Sequence[Blueprint], seconds: float) -> bool:
    """Whether the songs have codes for a new part of `seconds`.

    Raises:
        ValueError: for songs of which some have codes, or with codes of another length.
    """
    counts = {0 if blueprint.codes is None else len(blueprint.codes) for blueprint in blueprints}
    if counts == {0}:
        return False
    if 0 in counts:
        raise ValueError(
            "codes: some songs of the blueprint have codes and some have none; write them for all (WriteCodes), or for "
            "none"
        )
    wanted = seconds_to_codes(seconds)
    for count in counts - {wanted}:
        other = f"write the codes again (WriteCodes) for {seconds:g} s"
        if seconds < MIN_SECONDS:  # no blueprint is so short, so nobody can write them
            other = "leave the codes out (connect the Blueprint itself)"
        raise ValueError(
            f"codes: the new part of {seconds:g} s has {wanted} codes, and the blueprint holds {count}, which are "
            f"{count / CODE_RATE:g} s; set seconds to that, or {other}"
        )
    return True


def _check_room(source: Source, seconds: float) -> None:
    """Whether a source may become longer by `seconds`."""
    total = source.seconds + seconds
    if total * SAMPLE_RATE <= MAX_SECONDS * SAMPLE_RATE + 0.5:
        return
    room = math.floor((MAX_SECONDS - source.seconds) * CODE_RATE + 1e-6) / CODE_RATE
    advice = f"ask for at most {room:g} s, or cut the source" if room > 0 else "cut the source"
    raise ValueError(
        f"seconds: {seconds:g} s of new music and the source of {source.seconds:g} s would be {total:g} s, and "
        f"{MAX_SECONDS:g} s is the most; {advice} (CutSong)"
    )


def _window(canvas: Canvas, heard: int, where: Where) -> tuple[Canvas, int]:
    """What is sampled of a canvas: its new part and `heard` frames before (or behind) it; and its first frame there."""
    start, end = canvas.spans[0]
    first, last = (start - heard, canvas.frames) if where == "end" else (0, end + heard)
    left, right = frames_to_samples(first), min(frames_to_samples(last), canvas.total)
    source = Source(canvas.source.latents[..., first:last], canvas.source.waveform[..., left:right])
    samples = tuple((begin - left, stop - left) for begin, stop in canvas.samples)
    return Canvas(source, ((start - first, end - first),), samples, right - left, 0, canvas.song), first


def _follow_codes(
    runtime: Runtime,
    decoder: Decoder,
    models: ConditionerModels,
    take: Take,
    window: Canvas,
    heard: tuple[tuple[int, ...], Where],
) -> Song:
    """Songs of a window that follow their codes and the kept ones of `heard`, (codes, where the new part is).

    The decoder may write everywhere, as it was trained to with codes; what is kept is put back at every step.
    """
    work = Work(CODED, reference=take.reference)
    schedule = plan_steps(decoder, take, work)
    plan = _read_codes(runtime, models, take, window.frames, heard)
    return fill(runtime, decoder, take, work, (schedule, plan), (window, CONSERVATIVE))


def _read_codes(
    runtime: Runtime, models: ConditionerModels, take: Take, frames: int, heard: tuple[tuple[int, ...], Where]
) -> ConditionPlan:
    """What songs read in a window of `frames`: their words, and what kept and new codes sound like together."""
    check_count(take.blueprints)
    kept, where = heard

    def encode(blueprint: Blueprint) -> Conditioning:
        blueprint.require_complete()
        tokens, null = encode_tokens(runtime, models, blueprint, frames, instruction(CODED), take.reference)
        new = blueprint.codes or ()
        hints = read_codes(runtime, models, (*kept, *new) if where == "end" else (*new, *kept))  # [1, 5·N, 64]
        silence = models.silence.take(frames - hints.shape[1])  # a frame that the last samples have only begun
        return Conditioning(tokens, task_context(torch.cat([hints, silence.to(hints)], dim=1)), null)

    return ConditionPlan(stack_once(take.blueprints, encode), None, 1.0)


def _whole(canvas: Canvas, new: Song, first: int) -> Song:
    """The song of a window that begins at frame `first`, with the rest of the canvas around it."""
    count, frames = new.latents.shape[0], new.latents.shape[2]
    kept = canvas.source.latents.expand(count, -1, -1)  # [B, 64, T]
    latents = torch.cat([kept[..., :first], new.latents, kept[..., first + frames :]], dim=-1)
    return Song(latents, replace(new.meta, frames=canvas.frames))
