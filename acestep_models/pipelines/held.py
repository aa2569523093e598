"""A song of which a part is there already and stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..blueprint import Blueprint
from ..runtime import Runtime
from ..sampling.hold import Held, Hold
from ..sampling.loop import OnStep
from ..sampling.noise import noised
from ..sampling.schedule import Schedule
from ..sampling.solvers import Velocity
from ..tasks import Variant
from ..units import frames_to_seconds
from .encode import ConditionerModels, check_count, song_frames
from .generate import ConditionSchedule, Decoder, Solve, Song, Take, follow, plan_steps
from .task import Work, encode_work


@dataclass(frozen=True, eq=False)
class HoldingDecoder:
    """A decoder whose runs hold a part of some latents: another way to follow the same velocities."""

    inner: Decoder
    held: Held

    @property
    def variant(self) -> Variant:
        """See `Decoder.variant`."""
        return self.inner.variant

    @property
    def shift(self) -> float:
        """See `Decoder.shift`."""
        return self.inner.shift

    def run(
        self, runtime: Runtime, conditions: ConditionSchedule, start: Tensor, schedule: Schedule, solve: Solve
    ) -> Tensor:
        """See `Decoder.run`; `start` is noise. Times that begin below 1 begin between it and the latents, as the host.

        The host's own nodes put the latents there in all of the song, in the part that is made anew too.
        """

        def holding(velocity: Velocity, x: Tensor, on_step: OnStep) -> Tensor:
            hold = Hold(self.held, start.to(x.device))
            return hold.finish(solve(hold.velocity(velocity), x, on_step))

        begun = noised(start, self.held.latents, schedule.times[0])
        return self.inner.run(runtime, conditions, begun, schedule, holding)


def generate_held(runtime: Runtime, decoder: Decoder, conditioner: ConditionerModels, take: Take, held: Held) -> Song:
    """Text to music where the mask of `held` is open; the rest is `held` bit by bit, and between is a mixture.

    Raises:
        ValueError: for a take that cannot be sampled, or latents of another number or length.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    frames = held_frames(take.blueprints, held)
    work = Work("text2music", reference=take.reference)
    schedule = plan_steps(decoder, take, work)
    plan = encode_work(runtime, conditioner, take.blueprints, work, frames)
    return follow(runtime, HoldingDecoder(decoder, held), take, work, (schedule, plan))


def held_frames(blueprints: Sequence[Blueprint], held: Held) -> int:
    """Latent frames of songs that hold a part of `held`: its own, where no song says another length.

    One latent may be held by every song of a batch: takes of the same part.

    Raises:
        ValueError: for latents of another number or length than the songs.
    """
    check_count(blueprints)
    if held.count not in (1, len(blueprints)):
        raise ValueError(
            f"latent: it holds {held.count} songs, the blueprint {len(blueprints)}; set songs of Blueprint to "
            f"{held.count}, or connect a latent of one song"
        )
    told = [blueprint for blueprint in blueprints if blueprint.length is not None]
    frames = song_frames(told) if told else held.frames
    if frames != held.frames:
        raise ValueError(
            f"latent: it has {held.frames} frames ({frames_to_seconds(held.frames):g} s), the blueprint's song "
            f"{frames} ({frames_to_seconds(frames):g} s); set seconds of the blueprint to auto, and it takes the "
            "latent's length"
        )
    return frames
