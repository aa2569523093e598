"""Guider and Schedule: our guidance and times for SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

import torch

from ..acestep_models.sampling.schedule import DEFAULT_SOLVER, resolve
from ..acestep_models.sampling.schedule import SamplingOptions as Options
from ..acestep_models.sampling.schedule import Schedule as Times
from .host.guider import SongGuider, model_defaults
from .host.schema import io, out, report, schema, socket
from .widgets import describe_schedule, sampling_input


class Guider(io.ComfyNode):
    """Node "ACEStepGuider"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Model, both conditionings and options in; a GUIDER out."""
        return schema(
            node_id="ACEStepGuider",
            display_name="ACE-Step 1.5 Guider",
            description="Guidance for SamplerCustomAdvanced, with the values that DiTSample would use. With Schedule, "
            "the sampler euler and RandomNoise of the same seed it makes the song that DiTSample makes.",
            search_aliases=["cfg guider", "apg", "adg", "guidance"],
            inputs=[
                _model(),
                socket(io.Conditioning, "positive", tooltip="What the song shall be, from EncodeSong."),
                socket(io.Conditioning, "negative", tooltip="What it is pushed away from, from EncodeSong."),
                sampling_input(),
            ],
            outputs=[out(io.Guider, "guider", "For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, sampling: Options | None = None) -> io.NodeOutput:
        """A guider, and what it does."""
        schedule = _resolved(model, sampling)
        text = (describe_schedule(schedule)[1], _unused(schedule), *schedule.notes)
        return io.NodeOutput(SongGuider(model, positive, negative, schedule), ui=report(*text))


class Schedule(io.ComfyNode):
    """Node "ACEStepSchedule"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Model and options in; SIGMAS out."""
        return schema(
            node_id="ACEStepSchedule",
            display_name="ACE-Step 1.5 Schedule",
            description="The times for SamplerCustomAdvanced that DiTSample would use: exact for any number of steps, "
            "where ComfyUI's own schedulers round to 1000 times.",
            search_aliases=["scheduler", "sigmas", "steps", "shift"],
            inputs=[_model(), sampling_input()],
            outputs=[out(io.Sigmas, "sigmas", "Times from noise (1) to music (0), for SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, sampling: Options | None = None) -> io.NodeOutput:
        """The times, and how they came to be."""
        schedule = _resolved(model, sampling)
        text = (describe_schedule(schedule)[0], ", ".join(f"{t:.3f}" for t in schedule.times), *schedule.notes)
        return io.NodeOutput(torch.tensor(schedule.times), ui=report(*text))


def _model() -> Any:
    return socket(io.Model, "model", tooltip="The decoder, from Load DiT; LoRA and shift nodes may be between.")


def _resolved(model: Any, sampling: Options | None) -> Times:
    return resolve(sampling or Options(), *model_defaults(model))


def _unused(schedule: Times) -> str:
    """What only DiTSample does: SamplerCustomAdvanced has its own sampler."""
    asked = {f"solver {schedule.solver}": schedule.solver != DEFAULT_SOLVER, "dcw": schedule.dcw is not None}
    names = " and ".join(name for name, set_ in asked.items() if set_)
    return f"not done here: {names}; SamplerCustomAdvanced takes its steps itself, DiTSample does it" if names else ""
