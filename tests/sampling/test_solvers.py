"""Heun and SDE against the formulas of spec/audio.md §6.3."""

import math
from itertools import pairwise

import pytest
import torch

from acestep_models.sampling.loop import sample
from acestep_models.sampling.noise import Noise, song_noise
from acestep_models.sampling.schedule import Schedule, flow_times


def field(x, t, corrector=False):
    """A velocity that depends on both."""
    return torch.sin(x * t) + t


def start(rng, batch=1):
    """[batch, 64, 5] in float64."""
    return torch.randn(batch, 64, 5, generator=rng(0), dtype=torch.float64)


def test_heun_is_the_formula_and_its_last_step_is_single(rng):
    times, calls = flow_times(6, 2.0), []

    def velocity(x, t, corrector=False):
        calls.append((t, corrector))
        return field(x, t)

    x = expected = start(rng)
    for t, t_next in pairwise(times[:-1]):
        v = field(expected, t)
        ahead = field(expected - (t - t_next) * v, t_next)
        expected = expected - (t - t_next) * (v + ahead) / 2
    expected = expected - times[-2] * field(expected, times[-2])
    torch.testing.assert_close(
        sample(velocity, x, Schedule(times, 2.0, "heun"), Noise((0,))), expected, rtol=0, atol=1e-13
    )
    both = [call for t, t_next in pairwise(times[:-1]) for call in ((t, False), (t_next, True))]
    assert calls == [*both, (times[-2], False)]


def test_heun_is_of_second_order():
    """dx/dt = -x from 1 down to 0.2: halving the step quarters the error (the single last step lies outside)."""

    def error(steps):
        times = (*(1.0 - 0.8 * i / steps for i in range(steps + 1)), 0.0)
        seen = []
        sample(
            lambda x, t, corrector=False: -x,
            torch.ones(1, 64, 1, dtype=torch.float64),
            Schedule(times, None, "heun"),
            Noise((0,)),
            on_step=lambda done, music, x: seen.append(float(x[0, 0, 0])),
        )
        return abs(seen[steps - 1] - math.exp(0.8))

    assert error(10) / error(20) == pytest.approx(4, rel=0.1)


def test_the_estimate_of_heun_is_its_first_look(rng):
    seen, x = [], start(rng)
    sample(
        field,
        x,
        Schedule((1.0, 0.5, 0.0), None, "heun"),
        Noise((0,)),
        on_step=lambda done, music, x: seen.append(music),
    )
    torch.testing.assert_close(seen[0], x - field(x, 1.0))


def test_sde_is_the_formula(rng):
    """The next time is the schedule's, also where it is shifted."""
    times, noise = flow_times(5, 3.0), Noise((41, 2**64 - 1))
    x = expected = start(rng, 2)
    for index, (t, t_next) in enumerate(pairwise(times)):
        music = expected - t * field(expected, t)
        expected = t_next * noise.step(index, 5).double() + (1 - t_next) * music if t_next else music
    torch.testing.assert_close(sample(field, x, Schedule(times, 3.0, "sde"), noise), expected, rtol=0, atol=1e-13)


def test_item_k_of_an_sde_batch_equals_its_single_run(rng):
    x, schedule = start(rng, 3), Schedule(flow_times(7, 1.0), 1.0, "sde")
    together = sample(field, x, schedule, Noise((5, 6, 99)))
    for k, seed in enumerate((5, 6, 99)):
        assert torch.equal(together[k : k + 1], sample(field, x[k : k + 1], schedule, Noise((seed,))))


def test_noise_of_steps_songs_and_starts_differs_and_repeats():
    noises = [Noise((seed,)).step(step, 40) for seed in (0, 1, 2) for step in (0, 1, 2)]
    noises += [song_noise(seed, 40) for seed in (0, 1, 2, 3)]
    flat = torch.stack(noises).flatten(1)
    assert float((torch.corrcoef(flat) - torch.eye(len(flat))).abs().max()) < 0.1
    assert flat.std(dim=1).tolist() == pytest.approx([1.0] * len(flat), abs=0.05)
    assert torch.equal(noises[4], Noise((1,)).step(1, 40))


def test_noise_of_a_step_is_the_same_on_every_machine():
    """Written down once: a seed hashed otherwise would change every song."""
    expected = torch.Generator("cpu").manual_seed(12440419344929910496)
    assert torch.equal(Noise((7,)).step(3, 4), torch.randn(1, 64, 4, generator=expected))
