"""A tiny decoder with room for LoRA and LoKr, and an input for it."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.config import DiTConfig
from acestep_models.dit.transformer import DiT

CONFIG = DiTConfig(
    hidden_size=64,
    encoder_hidden_size=24,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    in_channels=24,
    audio_acoustic_hidden_dim=8,
    sliding_window=4,
    fsq_dim=24,
)
ALL = ("self_attention", "cross_attention", "mlp")


@pytest.fixture
def decoder(perturb):
    """A perturbed tiny decoder of its own for each test."""
    torch.manual_seed(3)
    return perturb(DiT(CONFIG), 11)


@pytest.fixture(scope="session")
def song():
    """Inputs of the decoder, two items at different times."""
    generator = torch.Generator().manual_seed(7)
    return dict(
        x=torch.randn(2, 24, 8, generator=generator),
        context=torch.randn(2, 24, 16, generator=generator),
        tokens=torch.randn(2, 7, 24, generator=generator),
        t=torch.tensor([0.9, 0.3]),
    )


@pytest.fixture(scope="session")
def shake():
    """shake(trainable, seed) -> every trained parameter becomes random and of the size of a weight."""

    def change(trainable, seed=1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in trainable.parameters():
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
        return trainable

    return change
