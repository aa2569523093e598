"""Our guidance as the host's GUIDER: in DiTSample's loop, and in SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from torch import Tensor

from ...acestep_models.sampling.guidance import Guide
from ...acestep_models.sampling.schedule import Schedule
from ...acestep_models.tasks import Variant
from .models import flow_shift, share_store, song_model

# Keys of model_options: this call is the second one of a Heun step; the step it belongs to, from 0.
CORRECTOR, STEP = "acestep_corrector", "acestep_step"
POSITIVE, NEGATIVE = "positive", "negative"
Conditioning = list[list[Any]]


def model_defaults(patcher: Any) -> tuple[Variant, float]:
    """What the decoder of a MODEL was trained for, and the shift it carries: its own, or a ModelSampling node's.

    Raises:
        ValueError: for a MODEL that is not ours, or a sampling that is no rectified flow.
    """
    model = song_model(patcher)
    return model.variant, flow_shift(patcher.get_model_object("model_sampling"))


class SongGuider(comfy.samplers.CFGGuider):
    """Guidance of a schedule around the host's model call.

    The velocities of song and null come from one call of the host, and the null is left out where the guidance does
    not act. Nodes that patch the host's cfg functions act here as they do in its own guider; one that puts another
    combination of the two in place replaces ours.

    Raises:
        ValueError: for a MODEL that is not ours.
    """

    def __init__(self, patcher: Any, positive: Conditioning, negative: Conditioning, schedule: Schedule) -> None:
        song_model(patcher)
        super().__init__(patcher)
        self.set_conds(positive, negative)
        self.set_cfg(schedule.scale)
        self._schedule = schedule
        self._guide: Guide = schedule.guide()
        self._starts: tuple[int, ...] = ()

    def set_later(self, later: dict[int, tuple[Conditioning, Conditioning]]) -> None:
        """Positive and negative that take over from a step on, by that step; only DiTSample's loop tells the step.

        The host prepares, counts and places them together with the first ones.
        """
        self._starts = tuple(sorted(later))
        for start, (positive, negative) in later.items():
            self.inner_set_conds({f"{POSITIVE}{start}": positive, f"{NEGATIVE}{start}": negative})

    def sample(self, *args: Any, **given: Any) -> Tensor:
        """A sampling run, which begins with a guidance that remembers nothing."""
        self._guide = self._schedule.guide()
        try:
            samples: Tensor = super().sample(*args, **given)
        finally:
            self._guide = self._schedule.guide()  # the old one holds tensors on the card
            self.conds: dict[str, Any] = {}  # so do they; the host lets go of them only where nothing went wrong
        return samples

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        """The music [B, 64, T] that x [B, 64, T] at `timestep` [B] is taken for: x - t·v with the guided v."""
        options = dict(model_options or {})
        corrector, step = bool(options.pop(CORRECTOR, False)), int(options.pop(STEP, 0))
        t = float(timestep.flatten()[0])
        guided = self._guide.needs_null(t)

        def combine(given: dict[str, Any]) -> Tensor:
            """t·v; the host gives t times the velocities of song and null."""
            null = given["uncond"] / t if guided else None
            return t * self._guide.velocity(x, t, given["cond"] / t, null, corrector)

        options.setdefault("sampler_cfg_function", combine)
        turn = max((str(start) for start in self._starts if start <= step), key=int, default="")
        share_store(self.conds)
        positive, negative = self.conds[POSITIVE + turn], self.conds[NEGATIVE + turn]
        scale = self._schedule.scale if guided else 1.0  # 1 makes the host leave out the null
        music: Tensor = comfy.samplers.sampling_function(
            self.inner_model, x, timestep, negative, positive, scale, model_options=options, seed=seed
        )
        return music
