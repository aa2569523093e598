"""What a noise mask closes stays bit for bit, in every sampler of the host."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import comfy.sampler_helpers
import torch
from torch import Tensor

KEY = "acestep_keep"


def keep_closed(owner: Any) -> None:
    """Hang `put_back` on a patcher of the decoder; its clones take it along."""
    owner.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, put_back)


def put_back(
    sample: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    *rest: Any,
    **named: Any,
) -> Tensor:
    """A sampling run [B, 64, T], with the latents that came in where the mask is 0.

    The host's samplers bring the closed part to where it was but for rounding (about 2e-7): their last step divides by
    a time and multiplies by it again.
    """
    made: Tensor = sample(noise, latent_image, sampler, sigmas, denoise_mask, *rest, **named)
    if denoise_mask is None:
        return made
    mask = comfy.sampler_helpers.prepare_mask(denoise_mask, made.shape, made.device)
    return torch.where(mask == 0.0, latent_image.to(made), made)
