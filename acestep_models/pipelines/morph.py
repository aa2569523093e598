"""A song turned into what another text describes, without making it anew (flow edit, spec/audio.md §5.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..blueprint import Blueprint
from ..runtime import Runtime
from ..sampling.flow_edit import FlowEdit, flow_edit
from ..sampling.loop import OnStep
from ..sampling.noise import Noise, song_seeds
from ..sampling.schedule import DEFAULT_SOLVER, SamplingOptions, Schedule, count_steps
from ..sampling.solvers import Velocity
from .encode import ConditionBatch, ConditionerModels, check_count
from .generate import ConditionSchedule, Decoder, Song, SongMeta, Take, plan_steps
from .listen import Source
from .task import Work, encode_work

# What both texts are read with: nothing else, the codes of the source, or its latents. Rows of TASKS.
STRUCTURES = {"text": "text2music", "codes": "cover", "faithful": "cover-faithful"}
MAX_AVERAGING = 8


@dataclass(frozen=True)
class MorphSettings:
    """How far a song is turned.

    Attributes:
        structure: a key of STRUCTURES.
        window_start, window_end: which part of the steps, 0 to 1, follows the difference of the texts; steps before
            it are left out, steps behind it follow the new text alone.
        averaging: draws of noise a step.

    Raises:
        ValueError: for a value out of its range.
    """

    structure: str = "text"
    window_start: float = 0.0
    window_end: float = 1.0
    averaging: int = 1

    def __post_init__(self) -> None:
        if self.structure not in STRUCTURES:
            raise ValueError(f"structure: expected one of {', '.join(STRUCTURES)}; got {self.structure!r}")
        start, end = self.window_start, self.window_end
        if not 0.0 <= start < end <= 1.0:
            raise ValueError(f"window_start, window_end: expected 0 <= start < end <= 1, got {start:g} and {end:g}")
        if not 1 <= self.averaging <= MAX_AVERAGING:
            raise ValueError(f"averaging: expected 1 to {MAX_AVERAGING}, got {self.averaging}")

    def window(self, steps: int) -> tuple[int, int]:
        """First edited step and the one after the last, both rounded down as upstream does.

        Raises:
            ValueError: where no step is left between them.
        """
        first, last = int(steps * self.window_start), int(steps * self.window_end)
        if first == last:
            raise ValueError(
                f"window_start, window_end: of {count_steps(steps)} none lies between {self.window_start:g} and "
                f"{self.window_end:g}; move them at least {1 / steps:.2g} apart"
            )
        return first, last


def morph(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    take: Take,
    source: Source,
    described: Sequence[Blueprint],
    settings: MorphSettings = MorphSettings(),
) -> Song:
    """`source` as the take's blueprints describe it; `described` says what it is now, once or once a song.

    As long as the source. Codes of the blueprints are not read.

    Raises:
        ValueError: for a take that cannot be morphed.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    _check(take, described)
    task, count, frames = STRUCTURES[settings.structure], len(take.blueprints), source.latents.shape[-1]
    work = Work(task, None if settings.structure == "text" else source, reference=take.reference)
    whole = plan_steps(decoder, take, work)
    first, last = settings.window(whole.steps)
    schedule = replace(whole, times=whole.times[first:], notes=(*whole.notes, _told(whole, first, last)))
    songs, olds = _plain(take.blueprints), _plain(described)
    target = encode_work(runtime, conditioner, songs, work, frames).first
    old = encode_work(runtime, conditioner, olds if len(olds) == count else olds * count, work, frames).first
    noise = Noise(song_seeds(take.seed, songs), take.retake)
    edit = FlowEdit(first, last - first, settings.averaging, noise)

    def solve(velocity: Velocity, x: Tensor, on_step: OnStep) -> Tensor:
        return flow_edit(velocity, x[:count], schedule, edit, on_step)

    start = source.latents.expand(2 * count, -1, -1).contiguous()
    latents = decoder.run(runtime, _conditions(target, old, edit, schedule), start, schedule, solve)
    return Song(latents, SongMeta(songs, noise.seeds, frames, schedule, task, (), take.retake))


def _check(take: Take, described: Sequence[Blueprint]) -> None:
    """Raises a ValueError for what a morph cannot do."""
    check_count(take.blueprints)
    check_count(described)
    if len(described) not in (1, len(take.blueprints)):
        raise ValueError(
            f"source_blueprint: expected 1 song, or as many as the blueprint's {len(take.blueprints)}; "
            f"got {len(described)}"
        )
    check_options(take.options)


def check_options(options: SamplingOptions) -> None:
    """Whether a morph can take its steps so.

    Raises:
        ValueError: for another solver than euler, or a correction after the steps.
    """
    if options.solver != DEFAULT_SOLVER:
        raise ValueError(f"solver: a morph takes Euler's steps, got {options.solver}; set solver to auto")
    if options.dcw is not None:
        raise ValueError(f"dcw: a morph has no estimate that it could correct, got {options.dcw.mode}; set dcw to off")


def _told(whole: Schedule, first: int, last: int) -> str:
    """How many of the steps turn the song, and what the others do."""
    behind = whole.steps - last
    rest = f"; the last {count_steps(behind)} only by the new text" if behind else ""
    return f"turned in {last - first} of {count_steps(whole.steps)}, from t {whole.times[first]:.3f}{rest}"


def _plain(blueprints: Sequence[Blueprint]) -> tuple[Blueprint, ...]:
    return tuple(replace(blueprint, codes=None) for blueprint in blueprints)


def _conditions(target: ConditionBatch, old: ConditionBatch, edit: FlowEdit, schedule: Schedule) -> ConditionSchedule:
    """Both sets while steps are edited, then the target's alone."""
    both = (0, joined(target, old))
    return ConditionSchedule((both,) if edit.steps == schedule.steps else (both, (edit.steps, target)))


def joined(one: ConditionBatch, other: ConditionBatch) -> ConditionBatch:
    """One batch of two; the shorter texts are padded and masked."""
    longest = max(one.tokens.shape[1], other.tokens.shape[1])
    padded = [F.pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in (one, other)]
    context = torch.cat([one.context, other.context])
    even = one.mask is None and other.mask is None and one.tokens.shape[1] == other.tokens.shape[1]
    mask = None if even else torch.cat([_mask(part, longest) for part in (one, other)])  # [B, L]
    return ConditionBatch(torch.cat(padded), mask, context, one.null)


def _mask(batch: ConditionBatch, longest: int) -> Tensor:
    """bool [B, longest], False on padding."""
    count, length = batch.tokens.shape[:2]
    mask = torch.ones(count, length, dtype=torch.bool) if batch.mask is None else batch.mask
    return F.pad(mask, (0, longest - length), value=False)
