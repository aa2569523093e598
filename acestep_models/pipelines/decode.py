"""Latents to sound."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import check_finite
from ..runtime import Handle, Runtime
from ..units import LATENT_CHANNELS
from ..vae.oobleck import Oobleck
from ..vae.tiling import TILE, decode_bytes, decode_tiled


def decode(runtime: Runtime, vae: Handle[Oobleck], latents: Tensor) -> Tensor:
    """Waveform [B, 2, 1920 · T] of latents [B, 64, T], float32 on the CPU, level untouched.

    Raises:
        ValueError: for latents of another shape.
        ACEStepError: when the VAE answers with numbers that are not finite.
    """
    if latents.ndim != 3 or latents.shape[1] != LATENT_CHANNELS or latents.shape[2] < 1:
        raise ValueError(
            f"latents: expected [songs, {LATENT_CHANNELS}, frames], got {list(latents.shape)}; "
            "connect a LATENT that an ACE-Step 1.5 sampler made"
        )
    check_finite("sampler (latents that reached the VAE)", latents)
    reserve = decode_bytes(vae.module.config, min(TILE, latents.shape[2]), vae.dtype)
    network = runtime.place(vae, reserve)
    with torch.inference_mode():
        return decode_tiled(network, latents, runtime=runtime, device=runtime.device(vae), dtype=vae.dtype)
