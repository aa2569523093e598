"""30 seconds of a recording as timbre latents: against diffusers, by seed, several at once, and what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from acestep_models.errors import Cancelled
from acestep_models.pipelines.listen import to_source
from acestep_models.pipelines.reference import WINDOW, Heard, encode_reference, window_starts
from acestep_models.runtime import Handle, PlainRuntime
from acestep_models.vae.config import OobleckConfig
from acestep_models.vae.fold import fold_weight_norm
from acestep_models.vae.oobleck import Oobleck

RATE = 48_000
# Real ratios, so that 30 s are 750 frames, and as narrow as can be: nothing else is quick on a CPU.
SIZES = {
    "encoder_hidden_size": 4,
    "downsampling_ratios": (2, 4, 4, 6, 10),
    "channel_multiples": (1, 1, 1, 1, 1),
    "decoder_channels": 2,
    "decoder_input_channels": 2,
}


@pytest.fixture(scope="module")
def oracle(perturb):
    """diffusers' VAE."""
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    return perturb(AutoencoderOobleck(**{name: _listed(size) for name, size in SIZES.items()}), 1)


def _listed(size):
    return list(size) if isinstance(size, tuple) else size


@pytest.fixture(scope="module")
def vae(oracle):
    """Ours with its weights."""
    state = dict(oracle.state_dict())
    for key in [key for key in state if key.endswith(".weight_g")]:
        name = key.removesuffix("_g")
        state[name] = fold_weight_norm(state.pop(key), state.pop(name + "_v"))
    ours = Oobleck(OobleckConfig(**SIZES))
    ours.load_state_dict(state, strict=True)
    return Handle(ours.eval(), torch.float32)


@pytest.fixture(scope="module")
def recording(rng):
    """recording(seconds, channels, rate, seed) -> noise under a slow swell, so that no two places are alike."""

    def make(seconds, channels=2, rate=RATE, seed=0):
        samples = round(seconds * rate)
        swell = 0.1 + 0.3 * torch.linspace(0, 1, samples).sin()
        return torch.randn(1, channels, samples, generator=rng(seed)).clamp(-2, 2) * swell, rate

    return make


def encode(vae, *recordings, seed=None):
    return encode_reference(PlainRuntime(), vae, recordings, seed)


@pytest.mark.parametrize(
    ("seconds", "heard"),
    [
        (3.0, Heard(3.0, 10, (0.0, 10.0, 20.0))),
        pytest.param(30.0, Heard(30.0, 1, (0.0, 10.0, 20.0)), marks=pytest.mark.slow),
        pytest.param(12.3, Heard(12.3, 3, (0.0, 12.3, 26.9)), marks=pytest.mark.slow),
        (45.7, Heard(45.7, 1, (0.0, 731_200 / RATE, 35.7))),
    ],
)
def test_windows_and_latents_are_those_of_diffusers(
    vae, oracle, recording, relative_error, monkeypatch, seconds, heard
):
    """Its `prepare_reference_audio_latents`, but for the chance in it: the mean where it draws a sample."""
    from diffusers import AceStepPipeline
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution as Posterior

    monkeypatch.setattr(Posterior, "sample", lambda posterior: posterior.mean)
    wave, rate = recording(seconds)
    reference = encode(vae, (wave, rate))
    with torch.no_grad():
        theirs, _ = AceStepPipeline.prepare_reference_audio_latents(
            SimpleNamespace(vae=oracle, sample_rate=RATE), wave[0], 1, torch.device("cpu"), torch.float32
        )
    assert reference.latents.shape == (1, 750, 2) == tuple(theirs.shape)
    assert relative_error(reference.latents, theirs) < 1e-4
    (ours,) = reference.heard
    assert (ours.seconds, ours.repeats) == (heard.seconds, heard.repeats)
    assert ours.starts == pytest.approx(heard.starts, abs=1 / RATE)


def test_a_seed_takes_one_window_in_each_third_as_upstream_does():
    samples, third = 100 * RATE, 100 * RATE // 3
    drawn = {seed: window_starts(samples, seed) for seed in range(200)}
    for starts in drawn.values():
        for part, start in enumerate(starts):
            assert part * third <= start <= (part + 1) * third - WINDOW
    assert len(set(drawn.values())) == 200
    for part in range(3):  # all of the third is reached, and each third by itself
        places = [(starts[part] - part * third) / (third - WINDOW) for starts in drawn.values()]
        assert min(places) < 0.05 and max(places) > 0.95
    assert drawn[7] == window_starts(samples, 7)
    assert window_starts(30 * RATE, 5) == (0, WINDOW, 2 * WINDOW)  # no room to choose
    assert window_starts(samples, 2**64 - 1) != window_starts(samples, None)


def test_a_seed_makes_the_same_latents_again_and_other_recordings_change_nothing(vae, recording):
    first, second = recording(40.0, seed=1), recording(3.0, channels=1, rate=8_000, seed=2)
    fixed = encode(vae, first)
    alone = encode(vae, first, seed=11)
    both = encode(vae, second, first, seed=11)
    assert both.latents.shape == (2, 750, 2)
    assert torch.equal(both.latents[1:], alone.latents) and both.heard[1:] == alone.heard
    assert not torch.equal(fixed.latents, alone.latents)


def test_what_is_heard_are_the_windows_one_after_another(vae, recording, relative_error):
    """8 kHz mono: repeated and cut after it has become 48 kHz stereo."""
    wave, rate = recording(14.0, channels=1, rate=8_000)
    reference = encode(vae, (wave, rate), seed=3)
    (heard,) = reference.heard
    assert (heard.seconds, heard.repeats) == (14.0, 3)
    long = to_source(wave, rate).repeat(1, 1, 3)
    cuts = [long[..., round(start * RATE) :][..., :WINDOW] for start in heard.starts]
    with torch.no_grad():
        mean = vae.module.encode_mean(torch.cat(cuts, dim=-1))
    assert relative_error(reference.latents, mean.transpose(1, 2)) < 1e-5


GOOD = torch.ones(1, 2, 2 * RATE)
BAD = {
    "none": ((), "expected 1 to 8 recordings, got 0"),
    "nine": ((GOOD,) * 9, "expected 1 to 8 recordings, got 9"),
    "silent": ((torch.zeros(1, 2, 2 * RATE),), "reference: 2 seconds of silence"),
    "almost silent": ((torch.full((1, 2, 2 * RATE), 9e-7),), "silence"),
    "the second is silent": ((GOOD, torch.zeros(1, 1, 2 * RATE)), "reference, recording 2: 2 seconds of silence"),
    "NaN": ((GOOD, torch.full((1, 2, RATE), math.nan)), "recording 2: 96000 of 96000 samples are not finite"),
    "empty": ((torch.ones(1, 2, 0),), r"reference: expected one sound \[1, channels, samples\], got \[1, 2, 0\]"),
    "a batch": ((torch.ones(2, 2, RATE),), "take one out of the batch"),
    "short": ((torch.ones(1, 2, RATE // 2),), "expected 1 to 600 seconds of sound, got 0.5; give a longer one"),
    "20 minutes": ((torch.ones(1, 1, 1).expand(1, 2, 1200 * RATE),), "got 1200; cut a part out of it"),
}


@pytest.mark.parametrize(("waves", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_heard_is_refused(vae, waves, message):
    with pytest.raises(ValueError, match=message):
        encode(vae, *((wave, RATE) for wave in waves))


def test_cancel_ends_the_run(vae, recording):
    runtime = PlainRuntime()
    runtime.cancel = True
    with pytest.raises(Cancelled):
        encode_reference(runtime, vae, [recording(2.0)])
