"""The VAE on a CUDA card: several tiles at once, and compiled snakes, against one tile at a time and plain ones."""

from __future__ import annotations

import pytest
import torch

from acestep_models.pipelines.decode import decode
from acestep_models.pipelines.listen import encode_source
from acestep_models.runtime import Handle, PlainRuntime
from acestep_models.vae import room
from acestep_models.vae.compiled import compile_vae, vae_compiler
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.15}


@pytest.fixture(autouse=True)
def real_fp32():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(params=TOLERANCES, ids=["fp32", "bf16"])
def vae(request, perturb):
    config = OobleckConfig(channel_multiples=(1, 1, 2, 2, 3), decoder_channels=4)
    network = perturb(Oobleck(config), 1, scale=0.01).requires_grad_(False).eval()
    return Handle(network.to("cuda", request.param), request.param)


def both(vae, rng):
    """A song of 40 s and the latents of another."""
    latents = torch.randn(2, 64, 1000, generator=rng(1))
    wave = torch.rand(1, 2, 1000 * 1920 + 77, generator=rng(2)) - 0.5
    runtime = PlainRuntime("cuda")
    return decode(runtime, vae, latents), encode_source(runtime, vae, wave, 48_000).latents


def test_several_tiles_at_once_are_each_alone(vae, rng, relative_error, monkeypatch):
    several = both(vae, rng)
    monkeypatch.setattr(room, "MOST_AT_ONCE", 1)
    for found, expected in zip(several, both(vae, rng), strict=True):
        assert relative_error(found, expected) < TOLERANCES[vae.dtype]


def test_compiled_is_plain(vae, rng, relative_error):
    pytest.importorskip("triton")
    fast = compile_vae(vae)
    for found, expected in zip(both(fast, rng), both(vae, rng), strict=True):
        assert relative_error(found, expected) < TOLERANCES[vae.dtype]
    assert vae_compiler(fast).failed == ""
