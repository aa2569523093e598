"""What the decoder reads when it works on a sound: cover, stems, added tracks, accompaniment (spec/audio.md §5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..blueprint import Blueprint
from ..dit.context import Span, task_context
from ..runtime import Runtime
from ..tasks import instruction, task_named
from ..units import HOP, SAMPLE_RATE, frames_to_seconds
from .encode import (
    ConditionBatch,
    ConditionerModels,
    Conditioning,
    check_count,
    check_song,
    encode_songs,
    encode_tokens,
    read_codes,
    song_frames,
    stack_once,
)
from .listen import Source, source_codes
from .reference import Reference


@dataclass(frozen=True, eq=False)
class Work:
    """What is asked of the decoder beside the words of the blueprints; every value is checked when it is made.

    A task that works on a source takes its length and its structure from it: `seconds` and codes of a blueprint are
    not read then (a song after a blueprint's codes is text2music), and neither caption nor lyrics have to be there.

    Attributes:
        task: a name in TASKS.
        source: the sound to work on; text2music takes one for `start_noise` alone.
        tracks: names out of TRACKS, as many as the task takes.
        region: where to write in the source, from and to in seconds; None is all of it.
        reference: whose timbre the result shall have; None is nobody's.
        strength: share of the steps, 0 to 1, that read the task; the rest reads text to music (spec/audio.md §5.5).
        start_noise: how much of the source is there at the start, 0 to 1 (spec/audio.md §5.6).

    Raises:
        ValueError: for values that are out of range or do not belong together.
    """

    task: str
    source: Source | None = None
    tracks: tuple[str, ...] = ()
    region: tuple[float, float] | None = None
    reference: Reference | None = None
    strength: float = 1.0
    start_noise: float = 0.0

    def __post_init__(self) -> None:
        instruction(self.task, self.tracks)
        for name in ("strength", "start_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        self._check_source()
        if self.region is not None:
            self._check_region(*self.region)

    def _check_source(self) -> None:
        needed = task_named(self.task).needs == "source"
        if self.source is None and (needed or self.start_noise):
            reason = "works on a source" if needed else f"start_noise {self.start_noise:g} starts from a source"
            raise ValueError(f"{self.task}: {reason}, and there is none; give one (EncodeSource)")
        if self.source is not None and not (needed or self.start_noise):
            raise ValueError(
                f"{self.task}: reads no source; leave it out, start from it (start_noise above 0), or ask for a cover"
            )

    def _check_region(self, start: float, end: float) -> None:
        if not task_named(self.task).takes_region or self.source is None:
            raise ValueError(f"{self.task}: works on the whole source, got a region of {start:g} to {end:g} s")
        if not 0 <= start < end <= self.source.seconds:
            raise ValueError(
                f"region: expected a start before its end, both in the source of 0 to {self.source.seconds:.10g} s, "
                f"got {start:.10g} to {end:.10g} s"
            )

    @property
    def instruction(self) -> str:
        """What the text encoder reads of it."""
        return instruction(self.task, self.tracks)

    @property
    def span(self) -> Span | None:
        """The region in latent frames of the source, first and one past the last; at least one frame."""
        if self.region is None or self.source is None:
            return None
        frames = self.source.latents.shape[-1]
        start, end = (int(seconds * SAMPLE_RATE) // HOP for seconds in self.region)
        start = min(start, frames - 1)
        return start, min(max(end, start + 1), frames)


@dataclass(frozen=True, eq=False)
class ConditionPlan:
    """The sets of conditions of a run.

    Attributes:
        first: what the steps read from the start.
        second: what they read after `share` of them; None when the first is read to the end.
        share: 0 to 1, of the steps.
    """

    first: ConditionBatch
    second: ConditionBatch | None
    share: float


def work_frames(blueprints: Sequence[Blueprint], work: Work) -> int:
    """Latent frames of a run: those of the source, or of the songs where there is none.

    Raises:
        ValueError: for no song, more than 8, or songs of different length.
    """
    check_count(blueprints)
    return song_frames(blueprints) if work.source is None else work.source.latents.shape[-1]


def encode_work(
    runtime: Runtime, models: ConditionerModels, blueprints: Sequence[Blueprint], work: Work, frames: int
) -> ConditionPlan:
    """What 1 to 8 songs of `frames` latent frames read of a task, float32 on the CPU (spec/audio.md §5.2, §5.5).

    The condition encoder is called once for a song and set; the second set is made only below strength 1.

    Raises:
        ValueError: for a source or codes of another length, songs without what the task needs, text that is too long.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    _check_songs(blueprints, work, frames)
    task = task_named(work.task)
    if task.needs == "source" and work.source is not None:
        context = task_context(_seen(runtime, models, work.source, task.hints), work.span)
        first = _encode(runtime, models, blueprints, work, context)
    else:
        first = encode_songs(runtime, models, blueprints, frames, work.reference)
    if work.strength == 1:
        return ConditionPlan(first, None, 1.0)
    plain = task_context(models.silence.take(frames), work.span)
    text = replace(work, task="text2music", source=None, tracks=(), region=None, start_noise=0.0)
    return ConditionPlan(first, _encode(runtime, models, blueprints, text, plain), work.strength)


def _check_songs(blueprints: Sequence[Blueprint], work: Work, frames: int) -> None:
    check_count(blueprints)
    if work.source is not None and work.source.latents.shape[-1] != frames:
        length = work.source.latents.shape[-1]
        raise ValueError(
            f"{work.task}: the source has {length} latent frames ({frames_to_seconds(length):g} s), the song {frames} "
            f"({frames_to_seconds(frames):g} s); give the song the length of the source"
        )
    needs = task_named(work.task).needs
    if needs == "source":
        return
    for blueprint in blueprints:
        check_song(blueprint, frames)
        if needs == "codes" and blueprint.codes is None:
            raise ValueError(f"{work.task}: a song has no codes; write them first (WriteCodes)")
    if work.strength < 1 and all(blueprint.codes is None for blueprint in blueprints):
        raise ValueError(f"strength: {work.task} follows no codes that it could leave early, got {work.strength:g}")


def _seen(runtime: Runtime, models: ConditionerModels, source: Source, hints: bool) -> Tensor:
    """What a task sees of its source [1, T, 64]: the latents, or as `hints` what its codes stand for."""
    latents = source.latents.transpose(1, 2)  # [1, T, 64]
    if not hints:
        return latents
    decoded = read_codes(runtime, models, source_codes(runtime, models, source))  # [1, 5·ceil(T / 5), 64]
    return decoded[:, : latents.shape[1]]


def _encode(
    runtime: Runtime, models: ConditionerModels, blueprints: Sequence[Blueprint], work: Work, context: Tensor
) -> ConditionBatch:
    """One set: all songs read the instruction of the work and see one context [1, T, 128]."""

    def encode(blueprint: Blueprint) -> Conditioning:
        tokens, null = encode_tokens(runtime, models, blueprint, context.shape[1], work.instruction, work.reference)
        return Conditioning(tokens, context, null)

    return stack_once([replace(blueprint, codes=None) for blueprint in blueprints], encode)
