"""Any sound as 48 kHz stereo: what passes unchanged, what is mixed, what is resampled."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from acestep_models.audio.stereo import DOWNMIX, to_rate, to_stereo


def test_stereo_at_48_khz_is_not_touched(rng):
    wave = torch.randn(2, 2, 1000, generator=rng(1))
    assert to_stereo(wave) is wave and to_rate(wave, 48_000) is wave


def test_mono_goes_to_both_sides(rng):
    wave = torch.randn(1, 1, 100, generator=rng(1))
    assert torch.equal(to_stereo(wave), torch.cat([wave, wave], dim=1))


@pytest.mark.parametrize("channels", DOWNMIX)
def test_a_mix_cannot_clip_and_is_even(channels):
    full = to_stereo(torch.ones(1, channels, 4))
    assert torch.allclose(full, torch.ones(1, 2, 4))
    left = torch.zeros(1, channels, 4)
    left[:, 0] = 1.0
    mixed = to_stereo(left)[0, :, 0]
    assert 0.2 < float(mixed[0]) <= 1.0 and float(mixed[1]) == 0.0


def test_a_5_1_mix_is_that_of_the_standard():
    front, half = 1.0, math.sqrt(0.5)
    total = front + 2 * half
    gains = torch.stack([to_stereo(torch.eye(6)[None, :, k : k + 1])[0, :, 0] for k in range(6)])
    expected = torch.tensor([[front, 0], [0, front], [half, half], [0, 0], [half, 0], [0, half]]) / total
    assert torch.allclose(gains, expected)


def test_too_many_channels_are_refused():
    with pytest.raises(ValueError, match=r"at most 8 channels \(7.1\), got 9"):
        to_stereo(torch.zeros(1, 9, 4))


@pytest.mark.parametrize("rate", [44_100, 44_101, 8_000, 22_050, 96_000])
def test_a_tone_keeps_its_pitch(rate):
    tone = torch.sin(2 * math.pi * 200 * torch.arange(rate) / rate)[None, None]
    got = to_rate(tone, rate)
    expected = torch.sin(2 * math.pi * 200 * torch.arange(got.shape[-1]) / 48_000)
    assert abs(got.shape[-1] - 48_000) <= 1
    assert float((got[0, 0] - expected)[4800:-4800].abs().max()) < 2e-3


def test_without_torchaudio_other_rates_say_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(ValueError, match="44100 Hz has to become 48000 Hz, which needs torchaudio.*install"):
        to_rate(torch.zeros(1, 2, 100), 44_100)
