"""A song from a blueprint, and from a sound if there is one: encode, draw noise, follow the decoder to latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ..blueprint import Blueprint
from ..dit.config import activation_bytes
from ..dit.told import Told
from ..dit.transformer import DiT
from ..runtime import Handle, Runtime
from ..sampling.loop import OnStep, PostStep, sample
from ..sampling.noise import Noise, Retake, noised, song_seeds
from ..sampling.schedule import SamplingOptions, Schedule, count_steps, resolve
from ..sampling.solvers import Velocity
from ..tasks import ALL_VARIANTS, VARIANTS, Variant, check_task, task_named
from .encode import ConditionBatch, ConditionerModels
from .reference import Reference
from .task import ConditionPlan, Work, encode_work, work_frames

Solve = Callable[[Velocity, Tensor, OnStep], Tensor]
Keep = Callable[[Tensor, Schedule], PostStep]


@dataclass(frozen=True, eq=False)
class ConditionSchedule:
    """The sets of conditions of a run.

    Attributes:
        batches: (first step that reads it, set), from step 0 on; every look of a step reads the step's set.

    Raises:
        ValueError: for steps that do not begin at 0 or do not rise.
    """

    batches: tuple[tuple[int, ConditionBatch], ...]

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.batches]
        if not starts or starts[0] != 0 or any(later <= before for before, later in pairwise(starts)):
            raise ValueError(f"conditions: expected rising steps from 0 on, got {starts}")

    @property
    def sets(self) -> tuple[ConditionBatch, ...]:
        """Every set, in order."""
        return tuple(batch for _, batch in self.batches)

    def at(self, step: int) -> int:
        """Which of `sets` step `step` (from 0) reads."""
        return sum(start <= step for start, _ in self.batches) - 1


def switched(plan: ConditionPlan, steps: int) -> ConditionSchedule:
    """When each set of a plan is read: the second from step floor(steps · share) on (spec/audio.md §5.5).

    The product is upstream's, in floating point: 0.58 of 50 steps are 28. A set that no step reads is left out.
    """
    first_of_second = int(steps * plan.share)
    if plan.second is None or first_of_second >= steps:
        return ConditionSchedule(((0, plan.first),))
    if first_of_second == 0:
        return ConditionSchedule(((0, plan.second),))
    return ConditionSchedule(((0, plan.first), (first_of_second, plan.second)))


class Decoder(Protocol):
    """A diffusion transformer and how to run it: plain, or through ComfyUI's sampling machinery."""

    @property
    def variant(self) -> Variant:
        """What it was trained for."""

    @property
    def shift(self) -> float:
        """The shift that the model carries."""

    def run(
        self, runtime: Runtime, conditions: ConditionSchedule, start: Tensor, schedule: Schedule, solve: Solve
    ) -> Tensor:
        """Latents [B, 64, T], float32 on the CPU.

        Calls `solve(velocity, x, on_step)` once, with velocities out of a guide of its own (`schedule.guide()`), x
        [B, 64, T] the `start` at the first time and `on_step`, which reports progress, watches for a cancel, and tells
        which step the next velocities belong to. One guide serves all sets of conditions.
        """


@dataclass(frozen=True)
class SongMeta:
    """How latents came to be; advisory: whoever reads it compares `frames` with the latents first.

    `task` and `tracks` are those of `Work`, `retake` is the other seed that the noise was turned to, `song` the
    identity of the `Canvas` that the latents belong to.
    """

    blueprints: tuple[Blueprint, ...]
    seeds: tuple[int, ...]
    frames: int
    schedule: Schedule
    task: str = "text2music"
    tracks: tuple[str, ...] = ()
    retake: Retake | None = None
    song: str = ""


@dataclass(frozen=True, eq=False)
class Song:
    """Latents [B, 64, T] (float32, CPU) and their history."""

    latents: Tensor
    meta: SongMeta


@dataclass(frozen=True, eq=False)
class PlainDecoder:
    """A decoder without a host: every velocity is one call of the network."""

    handle: Handle[DiT]
    variant: Variant
    shift: float

    def run(
        self, runtime: Runtime, conditions: ConditionSchedule, start: Tensor, schedule: Schedule, solve: Solve
    ) -> Tensor:
        """See `Decoder.run`."""
        guide = schedule.guide()
        sets = [_guided_rows(batch) if schedule.guided else batch for batch in conditions.sets]
        count, length = len(sets[0].tokens), max(rows.tokens.shape[1] for rows in sets)
        reserve = activation_bytes(self.handle.module.config, count, start.shape[-1], length, self.handle.dtype)
        dit, device = runtime.place(self.handle, reserve), runtime.device(self.handle)
        places = [_placed(rows, device, self.handle.dtype) for rows in sets]
        network = _Network(dit, places[conditions.at(0)])

        def velocity(x: Tensor, t: float, *, corrector: bool = False) -> Tensor:
            if not guide.needs_null(t):
                return guide.velocity(x, t, network(x, t), corrector=corrector)
            cond, null = network(torch.cat([x, x]), t).chunk(2)
            return guide.velocity(x, t, cond, null, corrector)

        def on_step(done: int, music: Tensor, x: Tensor) -> None:
            if (rows := places[conditions.at(done)]) is not network.rows:
                network.read(rows)
            runtime.progress(done, schedule.steps)
            runtime.check_cancelled()

        with torch.inference_mode():
            return solve(velocity, start.to(device), on_step).cpu()


def _guided_rows(batch: ConditionBatch) -> ConditionBatch:
    """The songs, then each of them once more with the null token in every place: 2·B rows."""
    null = batch.null.expand_as(batch.tokens)
    mask = None if batch.mask is None else batch.mask.repeat(2, 1)
    return ConditionBatch(torch.cat([batch.tokens, null]), mask, batch.context.repeat(2, 1, 1), batch.null)


def _placed(rows: ConditionBatch, device: torch.device, dtype: torch.dtype) -> ConditionBatch:
    mask = None if rows.mask is None else rows.mask.to(device)
    return ConditionBatch(rows.tokens.to(device, dtype), mask, rows.context.to(device, dtype), rows.null)


class _Network:
    """The network and what its rows read; called with fewer rows, it reads the first of them."""

    def __init__(self, dit: DiT, rows: ConditionBatch) -> None:
        self._dit = dit
        self.read(rows)

    def read(self, rows: ConditionBatch) -> None:
        """Go on with other conditions; the first call makes of them what all the others need."""
        self.rows = rows
        self._told: Told | None = None

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Raw velocity [B, 64, T], float32, at x [B, 64, T]."""
        count, rows = len(x), self.rows
        if self._told is None:
            self._told = self._dit.tell(rows.tokens, x.shape[-1], rows.mask)
        time = torch.full((count,), t, device=x.device)
        hidden = x.transpose(1, 2).to(rows.tokens.dtype)  # [B, T, 64]
        v: Tensor = self._dit(hidden, rows.context[:count], self._told.rows(0, count), time)  # [B, T, 64]
        return v.transpose(1, 2).float()  # [B, 64, T]


@dataclass(frozen=True, eq=False)
class Take:
    """What every task wants of the user.

    Attributes:
        blueprints: 1 to 8 songs of one length.
        options: of the sampler.
        seed: song i draws its noise from `seed` + i, or its blueprint's own seed.
        retake: another seed, and how far the noise turns towards it.
        reference: recordings whose timbre the songs shall have; it goes before that of a `Work`.
    """

    blueprints: tuple[Blueprint, ...]
    options: SamplingOptions = SamplingOptions()
    seed: int = 0
    retake: Retake | None = None
    reference: Reference | None = None


def generate(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    blueprints: Sequence[Blueprint],
    options: SamplingOptions,
    seed: int,
    work: Work | None = None,
) -> Song:
    """A batch of 1 to 8 songs of one length; song i draws its noise from `seed` + i, or its own seed.

    Without `work` it is text to music. Raises as `perform` does.
    """
    return perform(runtime, decoder, conditioner, Take(tuple(blueprints), options, seed), work or Work("text2music"))


def perform(runtime: Runtime, decoder: Decoder, conditioner: ConditionerModels, take: Take, work: Work) -> Song:
    """Any row of TASKS, from its conditions to latents.

    Raises:
        ValueError: for a take or work that cannot be sampled, before any network is asked.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    work = replace(work, reference=take.reference or work.reference)
    schedule = plan_steps(decoder, take, work)
    plan = encode_work(runtime, conditioner, take.blueprints, work, work_frames(take.blueprints, work))
    return follow(runtime, decoder, take, work, (schedule, plan))


def plan_steps(decoder: Decoder, take: Take, work: Work) -> Schedule:
    """The schedule of a run: that of the options, from where start noise lets it begin.

    Raises:
        ValueError: for a task that this variant cannot do.
    """
    warning = _check_variant(work.task, decoder.variant)
    schedule = resolve(take.options, decoder.variant, decoder.shift)
    notes = [warning] if warning else []
    if work.start_noise > 0.0:
        whole, schedule = schedule.steps, schedule.starting(1.0 - work.start_noise)
        left = f"{schedule.steps} of {count_steps(whole)} left"
        notes.append(f"starts at t {schedule.times[0]:.3f}, {_mixture(schedule.times[0])}: {left}")
    return replace(schedule, notes=(*schedule.notes, *notes))


def _mixture(t: float) -> str:
    """What a start at time t is made of."""
    noise = round(100 * t)
    if t == 1.0:
        return "all noise (no step begins nearer to this start_noise; more steps are finer)"
    return "half noise, half source" if noise == 50 else f"{noise} % noise, {100 - noise} % source"


def _check_variant(task: str, variant: Variant) -> str:
    """`check_task` for a row of VARIANTS, found by identity: two rows may hold equal numbers.

    A variant of somebody's own is in no row; it may run what every variant runs.
    """
    names = [name for name, row in VARIANTS.items() if row is variant]
    if not names and task_named(task).variants == ALL_VARIANTS:
        return ""
    return check_task(task, *names or ("unknown",))


def follow(
    runtime: Runtime,
    decoder: Decoder,
    take: Take,
    work: Work,
    planned: tuple[Schedule, ConditionPlan],
    keep: Keep | None = None,
) -> Song:
    """From noise to latents along what `plan_steps` and `encode_work` made.

    `keep` makes, of the noise [B, 64, T] of the run and its schedule, what happens after every step.
    """
    schedule, plan = planned
    frames = plan.first.context.shape[1]
    noise = Noise(song_seeds(take.seed, take.blueprints), take.retake)
    start = noise.start(frames)
    post_step = None if keep is None else keep(start, schedule)
    if work.source is not None and work.start_noise > 0.0:
        start = noised(start, work.source.latents, schedule.times[0])

    def solve(velocity: Velocity, x: Tensor, on_step: OnStep) -> Tensor:
        return sample(velocity, x, schedule, noise, on_step, post_step)

    latents = decoder.run(runtime, switched(plan, schedule.steps), start, schedule, solve)
    facts = SongMeta(take.blueprints, noise.seeds, frames, schedule, work.task, work.tracks, take.retake)
    return Song(latents, facts)
