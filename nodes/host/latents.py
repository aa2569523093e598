"""LATENT and AUDIO wires: the host's dictionaries, made and read."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...acestep_models.sampling.hold import Held
from ...acestep_models.units import LATENT_CHANNELS, SAMPLE_RATE

MIN_RATE, MAX_RATE = 1_000, 768_000


def latent(samples: Tensor, **extra: Any) -> dict[str, Any]:
    """A LATENT of samples [B, 64, T] where the host keeps node outputs."""
    return {"samples": samples.to(management.intermediate_device()), "type": "audio", **extra}


def empty_latent(songs: int, frames: int) -> dict[str, Any]:
    """A LATENT of zeros, which a host sampler replaces by its noise."""
    return latent(torch.zeros(songs, LATENT_CHANNELS, frames))


def latent_samples(value: Any) -> Tensor:
    """The samples [B, 64, T] of a LATENT.

    Raises:
        ValueError: for the latents of another kind of model.
    """
    samples = value.get("samples") if isinstance(value, dict) else None
    fits = isinstance(samples, Tensor) and samples.ndim == 3 and samples.shape[1] == LATENT_CHANNELS
    if not isinstance(samples, Tensor) or not fits or not samples.numel():
        raise ValueError(
            f"latent: expected samples of shape [songs, {LATENT_CHANNELS}, frames], got {_shape(samples)}; "
            "connect the latent output of DiTSample, or of a sampler that got its latent from EncodeSong"
        )
    return samples


def held_latent(value: Any) -> Held:
    """The part of a LATENT that its mask holds.

    Raises:
        ValueError: for a LATENT of another kind of model, without a mask, or with one that does not fit.
    """
    samples = latent_samples(value)
    mask = value.get("noise_mask")
    if not isinstance(mask, Tensor):
        raise ValueError(
            "latent: it has no mask that says what is made anew; put SpanMask between, or leave latent unconnected "
            "for a new song"
        )
    return Held(samples.float().cpu(), mask.float().cpu())


def _shape(value: Any) -> object:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def audio(waveform: Tensor, sample_rate: int = SAMPLE_RATE) -> dict[str, Any]:
    """An AUDIO of waveform [B, C, N]."""
    return {"waveform": waveform, "sample_rate": sample_rate}


def audio_parts(value: Any) -> tuple[Tensor, int]:
    """Waveform [B, C, N] in float32 and sample rate of an AUDIO.

    Raises:
        ValueError: for an AUDIO without sound.
    """
    waveform = value.get("waveform") if isinstance(value, dict) else None
    if not isinstance(waveform, Tensor) or waveform.ndim != 3 or not waveform.numel():
        raise ValueError(
            f"audio: expected a waveform of shape [songs, channels, samples], got {_shape(waveform)}; "
            "connect an AUDIO with sound in it"
        )
    rate = value.get("sample_rate")
    if not isinstance(rate, int) or not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"audio: expected a sample_rate of {MIN_RATE} to {MAX_RATE} Hz, got {rate!r}")
    return waveform.float().cpu(), rate


def blocked(reason: str) -> Any:
    """What an output holds that was not made: who is connected to it is not run, and says why."""
    return ExecutionBlocker(reason)
