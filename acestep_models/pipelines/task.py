"""What the decoder reads when it works on a sound: cover, stems, added tracks, accompaniment (spec/audio.md §5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..blueprint import Blueprint
from ..dit.context import FrameSpan, task_context
from ..runtime import Runtime
from ..tasks import instruction, task_named
from ..units import frames_to_seconds
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
        spans: where to write in the source, in latent frames: the first, and one past the last; none is all of it.
        reference: whose timbre the result shall have; None is nobody's.
        strength: share of the steps, 0 to 1, that read the task; the rest reads text to music (spec/audio.md §5.5).
        start_noise: how much of the source is there at the start, 0 to 1 (spec/audio.md §5.6).

    Raises:
        ValueError: for values that are out of range or do not belong together.
    """

    task: str
    source: Source | None = None
    tracks: tuple[str, ...] = ()
    spans: tuple[FrameSpan, ...] = ()
    reference: Reference | None = None
    strength: float = 1.0
    start_noise: float = 0.0

    def __post_init__(self) -> None:
        instruction(self.task, self.tracks)
        for name in ("strength", "start_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        self._check_source()
        self._check_spans()

    def _check_source(self) -> None:
        needed = task_named(self.task).needs == "source"
        if self.source is None and (needed or self.start_noise):
            reason = "works on a source" if needed else f"start_noise {self.start_noise:g} starts from a source"
            raise ValueError(f"{self.task}: {reason}, and there is none; give one (EncodeSource)")
        if self.source is not None and not (needed or self.start_noise):
            raise ValueError(
                f"{self.task}: reads no source; leave it out, start from it (start_noise above 0), or ask for a cover"
            )

    def _check_spans(self) -> None:
        takes, count = task_named(self.task).spans, len(self.spans)
        if takes == "none" and count:
            raise ValueError(f"{self.task}: works on the whole source, got {count} span(s) of it")
        if takes == "one" and count > 1:
            raise ValueError(f"{self.task}: takes one span of the source, got {count}")
        if takes == "many" and not count:
            raise ValueError(f"{self.task}: expected at least one span of the source, got none")
        if self.source is not None and count:
            self._check_frames(self.source.latents.shape[-1])

    def _check_frames(self, frames: int) -> None:
        edges = [0, *(edge for span in self.spans for edge in span), frames]
        if edges != sorted(edges) or any(start == end for start, end in self.spans):
            raise ValueError(
                f"{self.task}: expected spans of frames one behind the other, each with a start before its end, all in "
                f"the {frames} of the source; got {', '.join(f'{start} to {end}' for start, end in self.spans)}"
            )

    @property
    def instruction(self) -> str:
        """What the text encoder reads of it."""
        return instruction(self.task, self.tracks)


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
        silence = models.silence.take(frames) if task.blanks else None
        context = task_context(_seen(runtime, models, work.source, task.hints), work.spans, silence)
        first = _encode(runtime, models, blueprints, work, context)
    else:
        first = encode_songs(runtime, models, blueprints, frames, work.reference)
    if work.strength == 1:
        return ConditionPlan(first, None, 1.0)
    plain = task_context(models.silence.take(frames), work.spans)
    text = replace(work, task="text2music", source=None, tracks=(), spans=(), start_noise=0.0)
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
