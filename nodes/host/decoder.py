"""Our sampling loop around the host's model call, so patches, hooks, wrappers and compile act on every velocity."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...acestep_models.pipelines.encode import ConditionBatch
from ...acestep_models.pipelines.generate import ConditionSchedule, Solve
from ...acestep_models.runtime import PartRuntime, Runtime
from ...acestep_models.sampling.schedule import Schedule
from ...acestep_models.tasks import Variant
from .guider import CORRECTOR, STEP, Conditioning, SongGuider, model_defaults
from .models import CONTEXT, NULL, TOKEN_MASK


def conditioning(batch: ConditionBatch) -> tuple[Conditioning, Conditioning]:
    """Positive and negative for the host's samplers: the song's tokens, and the null token in each of their places.

    Both have the same context and length, so that guidance runs them as one batch.
    """
    shared = {CONTEXT: batch.context.transpose(1, 2).contiguous(), NULL: batch.null}
    if batch.mask is not None:
        shared[TOKEN_MASK] = batch.mask
    null = batch.null.expand(*batch.tokens.shape[:2], -1).contiguous()
    return [[batch.tokens, dict(shared)]], [[null, dict(shared)]]


class HostDecoder:
    """The core's `Decoder` for a MODEL wire."""

    def __init__(self, model: Any, seed: int) -> None:
        self._patcher, self._seed = model, seed
        self._variant, self._shift = model_defaults(model)

    @property
    def variant(self) -> Variant:
        """What it was trained for."""
        return self._variant

    @property
    def shift(self) -> float:
        """The shift that the model carries: the variant's, or what a ModelSampling node put there."""
        return self._shift

    def run(
        self, runtime: Runtime, conditions: ConditionSchedule, start: Tensor, schedule: Schedule, solve: Solve
    ) -> Tensor:
        """Latents [B, 64, T]: a sampling run of the host whose sampler is `solve`."""
        first, *later = (conditioning(batch) for batch in conditions.sets)
        guider = SongGuider(self._patcher, *first, schedule)
        guider.set_later({step: pair for (step, _), pair in zip(conditions.batches[1:], later, strict=True)})
        latents: Tensor = guider.sample(
            start,
            torch.zeros_like(start),
            comfy.samplers.KSAMPLER(_sampler(runtime, start, solve)),
            torch.tensor(schedule.times),
            callback=_callback(runtime, latent_preview.prepare_callback(self._patcher, schedule.steps)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=self._seed,
        )
        return latents.float().cpu()


def _callback(runtime: Runtime, show: Any) -> Any:
    """The host's callback; in a part of a run its bar goes on from the part before."""
    if not isinstance(runtime, PartRuntime):
        return show

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        done, pieces = runtime.stretch(step, total)
        show(done, denoised, x, pieces)

    return callback


def _sampler(runtime: Runtime, start: Tensor, solve: Solve) -> Any:
    """A sampler function as the host calls it.

    It begins at `start` itself: the host scales its start by the first time, upstream does not, and the two differ
    for times that begin below 1.
    """

    def sampler(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
        step = 0

        def velocity(x: Tensor, t: float, *, corrector: bool = False) -> Tensor:
            sigma = torch.full((x.shape[0],), t, device=x.device)
            options = {**extra_args["model_options"], CORRECTOR: corrector, STEP: step}
            denoised: Tensor = model(x, sigma, **{**extra_args, "model_options": options})
            return (x - denoised) / t

        def on_step(done: int, music: Tensor, x: Tensor) -> None:
            nonlocal step
            step = done
            runtime.check_cancelled()
            if callback is not None:
                callback({"i": done - 1, "denoised": music, "x": x})

        return solve(velocity, start.to(x.device), on_step)

    return sampler
