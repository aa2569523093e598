"""Holding a part of some latents, against the host's formula written out and against flows whose end is known."""

from itertools import pairwise

import pytest
import torch

from acestep_models.sampling.hold import Held, Hold
from acestep_models.sampling.loop import sample
from acestep_models.sampling.noise import Noise
from acestep_models.sampling.schedule import Schedule, flow_times


@pytest.fixture
def parts(rng):
    """Latents of two songs, their noise, and a mask with every kind of number."""
    clean, noise = (torch.randn(2, 64, 6, generator=rng(seed), dtype=torch.float64) for seed in (0, 1))
    mask = torch.tensor([0.0, 0.0, 0.25, 1.0, 1.0, 0.5], dtype=torch.float64).expand(2, 1, 6)
    return clean, noise, mask


def test_a_look_is_the_hosts_formula(parts, rng):
    clean, noise, mask = parts
    x, t = torch.randn(2, 64, 6, generator=rng(2), dtype=torch.float64), 0.7
    hold = Hold(Held(clean, mask), noise)
    found = hold.velocity(lambda x, t, corrector=False: torch.sin(x + t + corrector))(x, t, corrector=True)
    seen = x * mask + (t * noise + (1 - t) * clean) * (1 - mask)
    music = (seen - t * torch.sin(seen + t + 1)) * mask + clean * (1 - mask)
    torch.testing.assert_close(found, (x - music) / t, rtol=0, atol=1e-14)


def test_the_held_part_passes_through_its_noised_self_to_itself(parts):
    clean, noise, mask = parts
    hold, seen = Hold(Held(clean, mask), noise), []

    def velocity(x, t, *, corrector=False):
        seen.append(x)
        return torch.sin(x)

    times = flow_times(5, 3.0)
    arrived = sample(hold.velocity(velocity), noise, Schedule(times, 3.0), Noise((0, 1)))
    for x, t in zip(seen, times, strict=False):
        torch.testing.assert_close(x[..., :2], t * noise[..., :2] + (1 - t) * clean[..., :2], rtol=0, atol=1e-14)
    torch.testing.assert_close(arrived[..., :2], clean[..., :2], rtol=0, atol=1e-13)
    assert torch.equal(hold.finish(arrived)[..., :2], clean[..., :2])
    assert torch.equal(hold.finish(arrived)[..., 2:], arrived[..., 2:])


def test_where_the_mask_is_open_nothing_is_different(parts):
    clean, noise, _ = parts
    open_, times = torch.ones(1, 1, 6), flow_times(4, 2.0)
    expected = noise
    for t, t_next in pairwise(times):
        expected = expected + (t_next - t) * torch.cos(expected * t)
    velocity = Hold(Held(clean, open_), noise).velocity(lambda x, t, corrector=False: torch.cos(x * t))
    found = sample(velocity, noise, Schedule(times, 2.0), Noise((0, 1)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 1, 6), (2, 64, 6), (2, 1, 7), (2, 1, 1, 6)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"noise_mask: expected the shape \[1 or 2, 1, 6\].*got \[.*SpanMask"):
        Held(torch.zeros(2, 64, 6), torch.ones(shape))


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_mask_of_other_numbers_is_refused(value):
    with pytest.raises(ValueError, match="noise_mask: expected numbers of 0"):
        Held(torch.zeros(1, 64, 2), torch.tensor([[[0.5, value]]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(value):
    latents = torch.zeros(1, 64, 6)
    latents[0, 3, 2:4] = value
    with pytest.raises(ValueError, match="^latent: 2 of 384 values are not finite numbers, .*; make the latent again$"):
        Held(latents, torch.ones(1, 1, 6))
