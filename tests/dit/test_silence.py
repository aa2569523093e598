"""Silence from a file and from the VAE, and the context it becomes."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.silence import Silence, silence_from_file, silence_from_vae
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck

SMALL = OobleckConfig(
    encoder_hidden_size=8, channel_multiples=(1, 1, 1, 1, 1), decoder_channels=4, decoder_input_channels=4
)


def test_a_file_is_kept_as_it_is_and_repeated(rng):
    stored = torch.randn(1, 64, 5, generator=rng(0))
    silence = silence_from_file(stored)
    assert torch.equal(silence.take(3), stored.transpose(1, 2)[:, :3])
    assert torch.equal(silence.take(12), stored.transpose(1, 2).repeat(1, 3, 1)[:, :12])


def test_silence_of_a_vae_is_what_it_encodes_of_a_longer_one(perturb, relative_error):
    """The frames at the start differ; then one frame stays, for ever."""
    vae = perturb(Oobleck(SMALL), 1)
    with torch.no_grad():
        silence = silence_from_vae(vae.encode_mean)
        whole = vae.encode_mean(torch.zeros(1, 2, 300 * 1920)).transpose(1, 2)
    assert silence.frames.shape == (9, 4)
    assert relative_error(silence.take(280), whole[:, :280]) < 1e-5
    assert relative_error(whole[:, 290:], silence.take(300)[:, 290:]) > 1e-3  # the other edge is not silence
    steps = (whole[0, 1:20] - whole[0, :19]).abs().amax(dim=-1) / whole.abs().max()
    assert steps[:6].min() > 1e-5 > steps[7:].max()


def test_wrong_layouts_are_refused():
    with pytest.raises(ValueError, match=r"\[1, 64, frames\]"):
        silence_from_file(torch.zeros(2, 64, 5))
    with pytest.raises(ValueError, match="expected frames"):
        Silence(torch.zeros(0, 64))
