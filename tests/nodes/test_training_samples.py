"""Samples of a training: the VAE takes part where its shortest tiles fit beside the decoder, not only the longest."""

from __future__ import annotations

import wave

import pytest
import torch


@pytest.fixture
def maker(pack, loaded, tmp_path, monkeypatch):
    """A maker whose song has 300 frames, more than the shortest tiles."""
    module = pack("host.training_samples")
    latents = torch.randn(1, 64, 300, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(module.SampleMaker, "_latents", lambda self, decoder, weight: latents)
    return module.SampleMaker(None, "turbo", loaded.vae, tmp_path, 0)


def test_shorter_tiles_where_a_long_one_does_not_fit(core, loaded, maker, tmp_path, monkeypatch):
    import comfy.model_management as management

    room, vae = core("vae.room"), loaded.vae
    weights = sum(weight.numel() for weight in vae.module.parameters()) * vae.dtype.itemsize
    least = weights + room.least_bytes(vae, room.DECODING, 300)
    assert least < weights + room.DECODING.need(vae.module.config, 300, vae.dtype)
    decoder, free = torch.nn.Linear(1, 1), [least]
    monkeypatch.setattr(management, "get_free_memory", lambda *where, **how: free[0])
    assert maker.make(decoder, 7) == f"sample: {tmp_path.name}/step_000007.wav"
    with wave.open(str(tmp_path / "step_000007.wav")) as file:
        assert file.getnframes() == 300 * 1920
    free[0] -= 1
    with pytest.raises(ValueError, match="GiB of memory are missing for the VAE"):
        maker.make(decoder, 8)
