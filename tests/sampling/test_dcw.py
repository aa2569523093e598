"""The wavelet correction against the formulas of spec/audio.md §6.6."""

from itertools import pairwise

import pytest
import torch

from acestep_models.sampling.dcw import DCW, haar, unhaar
from acestep_models.sampling.loop import sample
from acestep_models.sampling.noise import Noise
from acestep_models.sampling.schedule import Schedule, flow_times

ROOT2 = 2**0.5


def matrix(frames):
    """The transform as an orthonormal matrix [2·half, 2·half], slow rows first, for T padded to an even number."""
    half = (frames + 1) // 2
    rows = torch.zeros(2 * half, 2 * half, dtype=torch.float64)
    for k in range(half):
        rows[k, 2 * k] = rows[k, 2 * k + 1] = rows[half + k, 2 * k] = 1 / ROOT2
        rows[half + k, 2 * k + 1] = -1 / ROOT2
    return rows


def corrected(x, y, frames, slow, fast):
    """x and y [B, 64, T] taken apart, x moved away from y by `slow` and `fast`, put together again."""
    rows, half = matrix(frames), (frames + 1) // 2
    padded = [torch.nn.functional.pad(p, (0, frames % 2)) @ rows.T for p in (x, y)]
    strength = torch.tensor([slow] * half + [fast] * half, dtype=torch.float64)
    moved = padded[0] + strength * (padded[0] - padded[1])
    return (moved @ rows)[..., :frames]


@pytest.mark.parametrize("frames", [1, 2, 7, 32, 251])
def test_haar_comes_back(rng, frames):
    x = torch.randn(2, 64, frames, generator=rng(0), dtype=torch.float64)
    slow, fast = haar(x)
    assert slow.shape == fast.shape == (2, 64, (frames + 1) // 2)
    torch.testing.assert_close(unhaar(slow, fast, frames), x)
    assert float(slow.square().sum() + fast.square().sum()) == pytest.approx(float(x.square().sum()))


def test_haar_of_known_numbers():
    slow, fast = haar(torch.tensor([[[3.0, 1.0, 5.0]]]))
    torch.testing.assert_close(slow, torch.tensor([[[4 / ROOT2, 5 / ROOT2]]]))
    torch.testing.assert_close(fast, torch.tensor([[[2 / ROOT2, 5 / ROOT2]]]))


@pytest.mark.parametrize("frames", [6, 31])
@pytest.mark.parametrize("t", [1.0, 0.6, 0.1])
@pytest.mark.parametrize(
    ("mode", "slow", "fast"),
    [
        ("low", lambda t: 0.05 * t, lambda t: 0.0),
        ("high", lambda t: 0.0, lambda t: 0.05 * (1 - t)),
        ("double", lambda t: 0.05 * t, lambda t: 0.02 * (1 - t)),
    ],
)
def test_a_correction_is_the_formula(rng, frames, t, mode, slow, fast):
    x, y = (torch.randn(2, 64, frames, generator=rng(k), dtype=torch.float64) for k in (0, 1))
    expected = corrected(x, y, frames, slow(t), fast(t))
    torch.testing.assert_close(DCW(mode).post_step(x, y, t), expected, rtol=0, atol=1e-12)


def test_pix_moves_the_latents_themselves(rng):
    x, y = (torch.randn(2, 64, 9, generator=rng(k), dtype=torch.float64) for k in (0, 1))
    torch.testing.assert_close(DCW("pix", 0.1).post_step(x, y, 0.3), x + 0.1 * (x - y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["low", "high", "double", "pix"])
def test_no_strength_or_no_difference_is_no_correction(rng, mode):
    x, y = (torch.randn(1, 64, 9, generator=rng(k)) for k in (0, 1))
    assert torch.equal(DCW(mode, 0.0, 0.0).post_step(x, y, 0.5), x)
    assert torch.equal(DCW(mode).post_step(x, x, 0.5), x)


@pytest.mark.parametrize("mode", ["double", "pix"])
def test_every_step_is_corrected_against_its_own_estimate(rng, mode):
    """The estimate is that of before the step; on the last step it is x itself, and nothing moves."""
    times, seen = flow_times(4, 3.0), []
    x = expected = torch.randn(1, 64, 7, generator=rng(0), dtype=torch.float64)
    schedule = Schedule(times, 3.0, dcw=DCW(mode))
    found = sample(
        lambda x, t: torch.sin(x) * t, x, schedule, Noise((0,)), on_step=lambda done, music, x: seen.append(x)
    )
    for t, t_next in pairwise(times):
        v = torch.sin(expected) * t
        music, expected = expected - t * v, expected - (t - t_next) * v
        slow, fast = (0.05, 0.05) if mode == "pix" else (0.05 * t, 0.02 * (1 - t))
        expected = corrected(expected, music, 7, slow, fast)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("both",), "one of low, high, double, pix, got 'both'"),
        (("low", -0.1), "scaler: expected 0 to 1, got -0.1"),
        (("low", 0.1, float("nan")), "high_scaler: expected 0 to 1, got nan"),
    ],
)
def test_illegal_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        DCW(*values)
