"""Samples of a decoder that is being trained: one song of the dataset, made as it plays now, as files of the run."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor

from ...acestep_models.dit.context import task_context
from ...acestep_models.dit.transformer import DiT
from ...acestep_models.pipelines.decode import decode
from ...acestep_models.pipelines.encode import ConditionBatch
from ...acestep_models.pipelines.generate import ConditionSchedule, PlainDecoder
from ...acestep_models.runtime import Handle, PlainRuntime
from ...acestep_models.sampling.loop import OnStep, sample
from ...acestep_models.sampling.noise import Noise
from ...acestep_models.sampling.schedule import SamplingOptions, resolve
from ...acestep_models.sampling.solvers import Velocity
from ...acestep_models.tasks import variant_named
from ...acestep_models.training.examples import Prepared
from ...acestep_models.units import FRAME_RATE, SAMPLE_RATE
from ...acestep_models.vae.oobleck import Oobleck
from ...acestep_models.vae.room import DECODING, least_bytes
from .runtime import HostRuntime

STEPS, LONGEST = 8, 60 * FRAME_RATE  # frames


class _InPlace(PlainRuntime):
    """Networks compute where they lie; the user's cancel counts."""

    def check_cancelled(self) -> None:
        """See `HostRuntime.check_cancelled`."""
        HostRuntime().check_cancelled()


@dataclass(frozen=True, eq=False)
class SampleMaker:
    """The first song of a dataset out of always the same noise; `folder` gets step_000100.wav and so on."""

    data: Prepared
    variant: str
    vae: Handle[Oobleck]
    folder: Path
    seed: int

    def make(self, decoder: DiT, step: int) -> str:
        """A sentence: the file that was written.

        Raises:
            ValueError: where memory is missing; and whatever else a network or a disk raises.
        """
        weight = next(decoder.parameters())
        latents = self._latents(decoder, weight)
        short = self._missing(latents.shape[-1], weight.device)
        if short > 0:
            raise ValueError(f"{short / 1024**3:.1f} GiB of memory are missing for the VAE")
        try:
            sound = decode(HostRuntime(), self.vae, latents)
        finally:
            if weight.device.type != "cpu":
                management.free_memory(1e30, weight.device)  # the VAE: the next steps need its place
        path = self.folder / f"step_{step:06}.wav"
        _write_sound(path, sound[0])
        return f"sample: {path.parent.name}/{path.name}"

    def _latents(self, decoder: DiT, weight: Tensor) -> Tensor:
        """[1, 64, T] on the CPU, of at most a minute."""
        first = self.data.examples[0]
        frames = min(len(first.latents), LONGEST)
        context = task_context(self.data.silence[None, :frames])
        batch = ConditionBatch(first.plain[None], None, context, self.data.null[None])
        variant = variant_named(self.variant)
        schedule = resolve(SamplingOptions(steps=STEPS), variant, variant.shift)
        noise = Noise((self.seed,))

        def solve(velocity: Velocity, x: Tensor, on_step: OnStep) -> Tensor:
            return sample(velocity, x, schedule, noise, on_step)

        network = PlainDecoder(Handle(decoder, weight.dtype), variant, variant.shift)
        conditions = ConditionSchedule(((0, batch),))
        return network.run(_InPlace(weight.device), conditions, noise.start(frames), schedule, solve)

    def _missing(self, frames: int, device: torch.device) -> int:
        """Bytes that the VAE and its shortest tiles lack on the device; longer ones it takes where there is room."""
        weights = sum(weight.numel() for weight in self.vae.module.parameters()) * self.vae.dtype.itemsize
        need = weights + least_bytes(self.vae, DECODING, frames)
        return need - int(management.get_free_memory(device))


def _write_sound(path: Path, sound: Tensor) -> None:
    """sound [2, N] as 16 bit WAV, quieter where it is over full scale."""
    level = sound / max(1.0, float(sound.abs().max()))
    numbers = (level.T * 32767).round().to(torch.int16).contiguous().numpy()  # [N, 2]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft: Any = path.with_name(f".{path.name}.tmp")
    try:
        with wave.open(str(draft), "wb") as file:
            file.setparams((2, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(numbers.tobytes())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
