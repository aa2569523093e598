"""A VAE with compiled snakes: the same layers, the same sound, and plainly where there is no compiling."""

from __future__ import annotations

import logging

import pytest
import torch

from acestep_models.compiled import Compiler
from acestep_models.ops import META
from acestep_models.pipelines.decode import decode
from acestep_models.pipelines.listen import encode_source
from acestep_models.runtime import Handle, PlainRuntime
from acestep_models.vae import oobleck
from acestep_models.vae.compiled import CompiledOobleck, compile_vae, vae_compiler
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.oobleck import Oobleck, snake

CONFIG = OobleckConfig(channel_multiples=(1, 1, 2, 2, 3), decoder_channels=4)


@pytest.fixture
def vae(perturb):
    return Handle(perturb(Oobleck(CONFIG), 1, scale=0.01).requires_grad_(False).eval(), torch.float32, owner=object())


@pytest.fixture
def latents(rng):
    return torch.randn(1, 64, 40, generator=rng(1))


def counting():
    """Compiler that compiles nothing, and how often its function ran."""
    calls = []

    def kernel(function):
        return lambda *given: calls.append(given[0].shape) or function(*given)

    return Compiler("the VAE", compile=kernel), calls


def test_every_snake_of_both_halves_goes_through_the_compiler(vae, latents, rng, monkeypatch):
    monkeypatch.setattr(oobleck, "CACHED_BYTES", 1 << 40)
    compiler, calls = counting()
    fast = compile_vae(vae, compiler)
    sound = decode(PlainRuntime(), fast, latents)
    assert torch.equal(sound, decode(PlainRuntime(), vae, latents))
    snakes = sum(isinstance(layer, oobleck.Snake) for layer in vae.module.decoder.modules())
    assert len(calls) == snakes == 36
    wave = torch.rand(1, 2, 4 * 1920, generator=rng(2)) - 0.5
    found = fast.module.encode_mean(wave)
    assert len(calls) == 72
    assert torch.equal(found, vae.module.encode_mean(wave))
    assert len(calls) == 72


def test_slices_on_the_cpu_go_through_it_too(vae, latents, monkeypatch):
    compiler, calls = counting()
    monkeypatch.setattr(oobleck, "CACHED_BYTES", 1 << 20)
    monkeypatch.setattr(oobleck, "SLICE_BYTES", 1 << 18)
    sound = decode(PlainRuntime(), compile_vae(vae, compiler), latents)
    assert len(calls) > 36
    assert torch.equal(sound, decode(PlainRuntime(), vae, latents))


def test_the_handle_is_another_and_all_that_lies_in_memory_the_same(vae):
    fast = compile_vae(vae)
    assert vae_compiler(vae) is None and type(vae.module) is Oobleck and vae.module.wave is snake
    assert isinstance(fast.module, CompiledOobleck) and fast.owner is vae.owner and fast.dtype == vae.dtype
    assert compile_vae(fast) is fast
    compiler = vae_compiler(fast)
    assert compiler is not None and compiler.dynamic is True and not compiler.failed
    theirs, ours = dict(vae.module.named_parameters()), dict(fast.module.named_parameters())
    assert theirs.keys() == ours.keys() and all(theirs[name] is ours[name] for name in theirs)
    assert not fast.module.training
    PlainRuntime(META).place(fast)
    assert {parameter.device for parameter in vae.module.parameters()} == {META}


def test_what_does_not_compile_goes_on_plainly_with_one_line(vae, latents, caplog):
    def broken(function):
        def call(*given):
            raise RuntimeError("no compiler here")

        return call

    fast = compile_vae(vae, Compiler("the VAE", compile=broken))
    with caplog.at_level(logging.WARNING):
        sound = decode(PlainRuntime(), fast, latents)
    assert torch.equal(sound, decode(PlainRuntime(), vae, latents))
    assert len(caplog.records) == 1 and "no compiler here" in caplog.text
    assert vae_compiler(fast).failed == "no compiler here"


@pytest.mark.slow
@pytest.mark.parametrize("slices", [False, True])
def test_compiled_is_plain(vae, latents, rng, relative_error, monkeypatch, slices):
    if slices:
        monkeypatch.setattr(oobleck, "CACHED_BYTES", 1 << 20)
        monkeypatch.setattr(oobleck, "SLICE_BYTES", 1 << 18)
    fast = compile_vae(vae)
    assert relative_error(decode(PlainRuntime(), fast, latents), decode(PlainRuntime(), vae, latents)) < 1e-4
    wave = torch.rand(1, 2, 48_077, generator=rng(2)) - 0.5
    both = [encode_source(PlainRuntime(), handle, wave, 48_000).latents for handle in (fast, vae)]
    assert relative_error(*both) < 1e-4
    assert vae_compiler(fast).failed == ""


@pytest.mark.slow
def test_one_compile_serves_all_shapes(rng, relative_error):
    """Channels, lengths, batches, and slices that are parts of something larger."""
    import torch._dynamo.utils

    torch._dynamo.utils.counters.clear()
    fast = Compiler("the VAE", dynamic=True).wrap(snake)
    for batch, channels, length in ((1, 8, 100), (1, 16, 2000), (1, 128, 333), (1, 6, 77), (1, 40, 5000)):
        x = torch.randn(batch, channels, length, generator=rng(1))
        alpha, beta = torch.randn(2, 1, channels, 1, generator=rng(2))
        with torch.inference_mode():
            assert relative_error(fast(x, alpha, beta), snake(x, alpha, beta)) < 1e-6
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("side", ["decode", "encode"])
def test_compiled_in_half_precision_is_no_farther_from_the_truth(vae, latents, rng, side):
    """One kernel rounds once where torch rounds after each of five."""

    def run(handle):
        if side == "decode":
            return decode(PlainRuntime(), handle, latents)
        wave = torch.rand(1, 2, 48_000, generator=rng(2)) - 0.5
        return encode_source(PlainRuntime(), handle, wave, 48_000).latents

    truth = run(vae)
    half = Handle(vae.module.bfloat16(), torch.bfloat16)
    plain, fast = (float((run(handle) - truth).norm() / truth.norm()) for handle in (half, compile_vae(half)))
    assert fast < 1.1 * plain < 0.05
