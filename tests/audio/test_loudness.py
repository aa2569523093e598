"""Loudness against the reference values of BS.1770 / EBU R128, peaks and limiter against their definitions."""

import math

import pytest
import torch

from acestep_models.audio import loudness
from acestep_models.audio.fades import fade
from acestep_models.audio.loudness import integrated_loudness, levels, limit, normalise, true_peaks


def tone(hertz, seconds, decibels, rate=48_000, channels=2, phase=0.0):
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    wave = 10 ** (decibels / 20) * torch.sin(2 * math.pi * hertz * time + phase)
    return wave.float().expand(channels, -1).contiguous()


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("decibels", [-23.0, -33.0])
def test_stereo_kilohertz_tone_reads_its_level(rate, decibels):
    """EBU Tech 3341 case 1 and 2: a 1 kHz stereo sine of -23 dBFS peak reads -23.0 +-0.1 LUFS."""
    assert integrated_loudness(tone(997, 20, decibels, rate), rate) == pytest.approx(decibels, abs=0.1)


def test_one_channel_is_three_decibels_less():
    assert integrated_loudness(tone(997, 5, -20.0, channels=1), 48_000) == pytest.approx(-23.01, abs=0.1)


def test_quiet_parts_are_gated_out():
    """EBU Tech 3341 case 3: 10 s at -36, 60 s at -23, 10 s at -36 dBFS read -23.0 LUFS."""
    wave = torch.cat([tone(1000, 10, -36.0), tone(1000, 60, -23.0), tone(1000, 10, -36.0)], dim=-1)
    assert integrated_loudness(wave, 48_000) == pytest.approx(-23.0, abs=0.1)


def test_weighting_matches_the_recursive_filters(rng):
    """The frequency-domain filters equal BS.1770's difference equations with the published 48 kHz coefficients."""
    lfilter = pytest.importorskip("scipy.signal").lfilter
    wave = torch.randn(2, 48_000, generator=rng(3))
    stage1 = lfilter(
        [1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585], wave.numpy()
    )
    expected = torch.from_numpy(lfilter([1, -2, 1], [1, -1.99004745483398, 0.99007225036621], stage1))
    torch.testing.assert_close(loudness.k_weighted(wave, 48_000), expected.float(), rtol=0, atol=2e-6)


def test_filter_blocks_do_not_show(rng, monkeypatch):
    wave = torch.randn(2, 300_000, generator=rng(4))
    whole = loudness.k_weighted(wave, 48_000)
    monkeypatch.setattr(loudness, "FILTER_BLOCK", 1 << 17)
    torch.testing.assert_close(loudness.k_weighted(wave, 48_000), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 481])
def test_running_max_and_mean_equal_torchs_pools(rng, window):
    values = torch.randn(2_000, generator=rng(5))
    pools = torch.nn.functional.max_pool1d, torch.nn.functional.avg_pool1d
    highest, mean = (pool(values[None, None], window, stride=1)[0, 0] for pool in pools)
    assert torch.equal(loudness._running_max(values, window), highest)
    torch.testing.assert_close(loudness._running_mean(values, window), mean, rtol=0, atol=1e-6)


def test_silence_has_no_loudness_and_stays_silent():
    silence = torch.zeros(2, 48_000)
    assert integrated_loudness(silence, 48_000) == -math.inf
    assert torch.equal(normalise(silence, 48_000, -14.0, -1.0), silence)


def test_true_peak_sees_between_samples():
    """A quarter-rate sine sampled at 45 degrees peaks 3 dB above its samples."""
    wave = tone(12_000, 1, 0.0, channels=1, phase=math.pi / 4)
    assert float(wave.abs().max()) == pytest.approx(math.sqrt(0.5), abs=1e-4)
    assert float(true_peaks(wave)[100:-100].max()) == pytest.approx(1.0, abs=0.01)


def test_true_peak_is_never_below_the_samples(rng):
    wave = torch.randn(2, 5_000, generator=rng(0))
    assert bool((true_peaks(wave) >= wave.abs().amax(0) - 1e-6).all())


def test_chunks_do_not_show(rng, monkeypatch):
    wave = torch.randn(2, 5_000, generator=rng(1))
    whole = true_peaks(wave)
    monkeypatch.setattr(loudness, "CHUNK", 700)
    assert torch.equal(true_peaks(wave), whole)


def test_normalise_reaches_target_when_the_ceiling_is_far(rng):
    wave = tone(440, 10, -30.0)
    assert levels(normalise(wave, 48_000, -20.0, -1.0), 48_000).lufs == pytest.approx(-20.0, abs=0.05)


@pytest.mark.parametrize("ceiling", [-1.0, -6.0])
def test_limiter_keeps_below_the_ceiling(rng, ceiling):
    wave = torch.randn(2, 48_000, generator=rng(2)) * torch.linspace(0.05, 2.0, 48_000)
    limited = limit(wave, 48_000, ceiling)
    assert levels(limited, 48_000).true_peak <= ceiling + 1e-3
    assert levels(limited, 48_000).true_peak > ceiling - 0.5


def test_limiter_leaves_what_is_below_alone(rng):
    wave = 0.1 * torch.randn(2, 48_000, generator=rng(2)).clamp(-3, 3)
    assert torch.equal(limit(wave, 48_000, -1.0), wave)


def test_limiter_touches_only_the_neighbourhood_of_a_peak():
    wave = tone(200, 2, -20.0)
    wave[:, 48_000] = 1.5
    limited = limit(wave, 48_000, -1.0)
    far = torch.cat([limited[:, :47_000], limited[:, 49_000:]], -1)
    torch.testing.assert_close(far, torch.cat([wave[:, :47_000], wave[:, 49_000:]], -1), rtol=0.02, atol=0)


def test_fades_are_straight_ramps():
    ones = torch.ones(2, 1000)
    faded = fade(ones, 100, fade_in=1.0, fade_out=2.0)
    torch.testing.assert_close(faded[0, :100], torch.linspace(0, 1, 100))
    torch.testing.assert_close(faded[1, -200:], torch.linspace(1, 0, 200))
    assert torch.equal(faded[:, 100:-200], ones[:, 100:-200])
    assert torch.equal(ones, torch.ones(2, 1000))


def test_a_fade_longer_than_the_song_is_the_song():
    assert torch.equal(fade(torch.ones(1, 50), 100, fade_in=9.0)[0], torch.linspace(0, 1, 50))
