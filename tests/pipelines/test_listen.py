"""Sound to latents and codes: against diffusers, whole against in tiles, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.pipelines.listen import (
    Source,
    check_sound,
    encode_source,
    posterior_noise,
    source_codes,
    to_source,
)
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import song_noise
from acestep_models.units import HOP


@pytest.fixture(scope="module")
def tone():
    """tone(samples, channels) -> a chord that moves, [1, channels, samples] at 48 kHz."""

    def make(samples, channels=2):
        t = torch.arange(samples) / 48_000
        left = 0.4 * torch.sin(2 * math.pi * (220 + 30 * t) * t) + 0.1 * torch.sin(2 * math.pi * 1760 * t)
        return torch.stack([left, left.flip(0), *[left] * 6][:channels])[None]

    return make


def encode(models, wave, rate=48_000, **options):
    return encode_source(PlainRuntime(), models.vae, wave, rate, **options)


@pytest.mark.parametrize("samples", [48_000, 51_999])
def test_latents_and_codes_are_those_of_diffusers(tiny_models, diffusers_pipeline, tone, relative_error, samples):
    """The mean of its VAE, then its tokenizer with its silence; 51 999 samples leave a group to fill up."""
    wave = tone(samples)
    source = encode(tiny_models, wave)
    pipeline, silence = diffusers_pipeline, tiny_models.conditioner.silence.take(10)
    with torch.no_grad():
        mean = pipeline.vae.encode(wave).latent_dist.mean
        _, indices = pipeline.audio_tokenizer.tokenize(mean.transpose(1, 2), silence)
    codes = source_codes(PlainRuntime(), tiny_models.conditioner, source)
    assert source.latents.shape == (1, 64, samples // HOP) == tuple(mean.shape)
    assert relative_error(source.latents, mean) < 1e-4
    assert codes == tuple(indices.flatten().tolist())
    assert len(codes) == source.codes == math.ceil(samples // HOP / 5) and all(type(code) is int for code in codes)


def test_a_seeded_sample_is_drawn_from_diffusers_posterior(tiny_models, diffusers_pipeline, tone, relative_error):
    """Its mean + its std · our noise, the same again for the same seed."""
    wave = tone(48_000)
    with torch.no_grad():
        posterior = diffusers_pipeline.vae.encode(wave).latent_dist
    drawn = encode(tiny_models, wave, seed=5)
    assert relative_error(drawn.latents, posterior.mean + posterior.std * posterior_noise(5, 25)) < 1e-4
    assert torch.equal(encode(tiny_models, wave, seed=5).latents, drawn.latents)
    assert not torch.equal(posterior_noise(6, 25), posterior_noise(5, 25))
    assert torch.equal(drawn.waveform, wave)


def test_the_sample_has_its_own_noise():
    """Else start noise, which mixes noise into the latents, would meet the same numbers in both."""
    noise = posterior_noise(5, 2000).flatten()
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([noise, song_noise(5, 2000).flatten()]))[0, 1])) < 0.02


@pytest.mark.parametrize(("samples", "channels", "rate"), [(24_000, 1, 8_000), (144_000, 6, 48_000)])
def test_three_seconds_are_enough(tone, samples, channels, rate):
    check_sound(tone(samples, channels), rate)
    assert to_source(tone(samples, channels), rate).shape == (1, 2, 144_000)


def test_48_khz_stereo_stays_bit_by_bit(tiny_models, tone):
    wave = tone(48_123)
    source = encode(tiny_models, wave)
    assert torch.equal(source.waveform, wave)
    assert (source.samples, source.seconds) == (48_123, 48_123 / 48_000)


def test_other_rates_and_channels_become_48_khz_stereo(tiny_models, tone):
    mono = encode(tiny_models, tone(48_000, 1), 44_100)
    assert mono.waveform.shape == (1, 2, math.ceil(48_000 * 160 / 147))
    assert torch.equal(mono.waveform[:, 0], mono.waveform[:, 1])
    assert encode(tiny_models, tone(48_000, 6)).waveform.shape == (1, 2, 48_000)


@pytest.mark.slow
@pytest.mark.parametrize("tile", [20, None])
def test_in_tiles_as_in_one_go(tiny_models, tone, relative_error, tile):
    wave = tone(30 * HOP)
    runtime = PlainRuntime()
    pieces = encode_source(runtime, tiny_models.vae, wave, 48_000, tile=tile)
    assert relative_error(pieces.latents, encode(tiny_models, wave).latents) < 1e-5
    done, total = runtime.last_progress
    assert done == total and (total > 1) == (tile is not None)


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(1, 2, 96_000), "2 seconds of silence"),
        (torch.full((1, 2, 96_000), 5e-7), "silence"),
        (torch.ones(1, 2, 47_999), r"expected 1 to 600 seconds of sound, got 0.9999791667; give a longer one"),
        (torch.ones(1, 1, 1), "got 2.083333333e-05"),
        (torch.ones(1, 2, 0), r"expected one sound \[1, channels, samples\], got \[1, 2, 0\]"),
        (torch.ones(1, 1, 1).expand(1, 2, 1200 * 48_000), "expected 1 to 600 seconds of sound, got 1200; cut a part"),
        (torch.ones(1, 1, 1).expand(1, 1, 600 * 48_000 + 1), "got 600.0000208; cut a part out of it"),
        (torch.ones(2, 2, 96_000), r"expected one sound \[1, channels, samples\], got \[2, 2, 96000\]"),
        (torch.ones(2, 96_000), r"got \[2, 96000\]"),
        (torch.ones(1, 0, 96_000), r"got \[1, 0, 96000\]"),
        (torch.full((1, 2, 48_000), math.nan), "96000 of 96000 samples are not finite"),
        (torch.full((1, 2, 48_000), math.inf), "not finite"),
        (torch.ones(1, 9, 48_000), "got 9"),
    ],
)
def test_what_cannot_be_heard_is_refused(tiny_models, wave, message):
    with pytest.raises(ValueError, match=f"^audio: .*{message}"):
        encode(tiny_models, wave)


def test_cancel_ends_the_run(tiny_models, tone):
    runtime = PlainRuntime()
    runtime.cancel = True
    with pytest.raises(Cancelled):
        encode_source(runtime, tiny_models.vae, tone(48_000), 48_000)


def test_numbers_that_are_not_finite_name_the_tokenizer(tiny_models, tone):
    class Broken(torch.nn.Module):
        def forward(self, latents, silence):
            return latents * math.nan, torch.zeros(1, 5, dtype=torch.int64)

    handle = replace(tiny_models.conditioner.code_tokenizer, module=Broken())
    broken = replace(tiny_models.conditioner, code_tokenizer=handle)
    with pytest.raises(ACEStepError, match="^audio tokenizer: .*not finite"):
        source_codes(PlainRuntime(), broken, Source(torch.ones(1, 64, 25), tone(48_000)))
