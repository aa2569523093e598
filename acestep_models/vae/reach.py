"""How far the VAE's convolutions see: it follows from the layers alone."""

from __future__ import annotations

from .config import OobleckConfig
from .oobleck import DILATIONS, EDGE_KERNEL, LATENT_KERNEL, RESIDUAL_KERNEL

RESIDUAL_REACH = (RESIDUAL_KERNEL // 2) * sum(DILATIONS)


def decode_overlap(config: OobleckConfig) -> int:
    """Latent frames on each side that the sound of one frame depends on: 9 for the real VAE."""
    low, high = -(EDGE_KERNEL // 2), config.hop - 1 + EDGE_KERNEL // 2  # samples of frame 0, seen through conv2
    for ratio in config.downsampling_ratios:
        low, high = low - RESIDUAL_REACH, high + RESIDUAL_REACH
        # sample j of a transposed convolution (kernel 2s, padding s/2) is made of inputs i with 0 <= j + s/2 - i·s < 2s
        low, high = -((2 * ratio - 1 - low - ratio // 2) // ratio), (high + ratio // 2) // ratio
    return max(-low, high) + EDGE_KERNEL // 2


def encode_overlap(config: OobleckConfig) -> int:
    """Frames of sound on each side that one latent frame depends on: 7 for the real VAE."""
    low, high = -(LATENT_KERNEL // 2), LATENT_KERNEL // 2
    for ratio in config.downsampling_ratios[::-1]:
        # frame j of a convolution (kernel 2s, stride s, padding s/2) is made of inputs j·s - s/2 .. j·s - s/2 + 2s - 1
        low, high = low * ratio - ratio // 2, high * ratio - ratio // 2 + 2 * ratio - 1
        low, high = low - RESIDUAL_REACH, high + RESIDUAL_REACH
    low, high = low - EDGE_KERNEL // 2, high + EDGE_KERNEL // 2
    return max(-(low // config.hop), high // config.hop)
