"""The loop against flows whose end is known, and its noise against torch's own."""

import math
from itertools import pairwise

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.errors import ACEStepError
from acestep_models.sampling.loop import sample
from acestep_models.sampling.noise import Noise, Retake, batch_noise, blend, noised, song_noise, song_seeds
from acestep_models.sampling.schedule import Schedule, flow_times


def straight(steps, shift=1.0):
    """An Euler schedule."""
    return Schedule(flow_times(steps, shift), shift)


def test_a_straight_flow_arrives_at_the_music(rng):
    noise, music = torch.randn(2, 64, 7, generator=rng(0)), torch.randn(2, 64, 7, generator=rng(1))
    found = sample(lambda x, t: noise - music, noise, straight(5, 3.0), Noise((0, 1)))
    torch.testing.assert_close(found, music)


def test_euler_steps_are_the_formula(rng):
    x, times = torch.randn(1, 64, 3, generator=rng(0), dtype=torch.float64), flow_times(8, 2.0)
    expected = x
    for t, t_next in pairwise(times):
        expected = expected - (t - t_next) * torch.sin(expected * t)
    found = sample(lambda x, t: torch.sin(x * t), x, straight(8, 2.0), Noise((0,)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_each_step_reports_the_estimate_of_the_music():
    seen = []
    x = torch.full((1, 64, 2), 4.0)
    sample(lambda x, t: torch.ones_like(x), x, straight(2), Noise((0,)), on_step=lambda *a: seen.append(a))
    assert [done for done, _, _ in seen] == [1, 2]
    assert [float(music.max()) for _, music, _ in seen] == [3.0, 3.0]


def test_a_step_may_be_the_last_when_the_user_cancels():
    calls = []

    def stop(done, music, x):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(lambda x, t: calls.append(t) or x, torch.ones(1, 64, 2), straight(8), Noise((0,)), on_step=stop)
    assert len(calls) == 2


def test_a_velocity_that_is_not_finite_names_the_step():
    with pytest.raises(ACEStepError, match=r"decoder \(DiT\), step 2 of 4: 128 of 128 values are not finite.*fp32"):
        sample(lambda x, t: x / 0 if t < 1 else x, torch.ones(1, 64, 2), straight(4), Noise((0,)))


def test_every_item_needs_a_seed():
    with pytest.raises(ValueError, match="one for each of 2 items, got 1"):
        sample(lambda x, t: x, torch.ones(2, 64, 2), straight(4), Noise((0,)))


def test_noise_is_torchs_own_for_the_seed():
    torch.manual_seed(77)
    assert torch.equal(song_noise(77, 250), torch.randn(1, 64, 250))


def test_item_k_of_a_batch_has_the_noise_of_its_single_run():
    songs = [Blueprint(caption="a"), Blueprint(caption="b"), Blueprint(caption="c", seed=5), Blueprint(caption="d")]
    seeds = song_seeds(2**64 - 2, songs)
    assert seeds == (2**64 - 2, 2**64 - 1, 5, 1)
    batch = batch_noise(seeds, 33)
    for k, seed in enumerate(seeds):
        assert torch.equal(batch[k : k + 1], song_noise(seed, 33))


def test_blend_is_the_formula_and_its_ends_are_the_two(rng):
    one, other = torch.randn(2, 64, 9, generator=rng(0)), torch.randn(2, 64, 9, generator=rng(1))
    assert torch.equal(blend(one, other, 0.0), one) and torch.equal(blend(one, other, 1.0), other)
    torch.testing.assert_close(blend(one, other, 0.5), (one + other) / 2**0.5)
    third = math.cos(0.3 * math.pi / 2) * one.double() + math.sin(0.3 * math.pi / 2) * other.double()
    torch.testing.assert_close(blend(one.double(), other.double(), 0.3), third, rtol=0, atol=1e-14)


def test_a_retake_turns_every_number_of_a_run():
    plain, other, turned = Noise((7, 8)), Noise((30, 31)), Noise((7, 8), Retake(30, 0.25))
    for draw in (lambda noise: noise.start(11), lambda noise: noise.step(3, 11)):
        assert torch.equal(draw(turned), blend(draw(plain), draw(other), 0.25))
        assert torch.equal(draw(Noise((7, 8), Retake(30, 0.0))), draw(plain))
        assert torch.equal(draw(Noise((7, 8), Retake(30, 1.0))), draw(other))
    assert torch.equal(plain.start(11), batch_noise((7, 8), 11))


def test_a_retake_of_the_same_seed_is_the_song_itself():
    """Turned towards itself by the formula of independent noises it would be up to 1.4 times as loud."""
    turned = Noise((7, 99), Retake(7, 0.5)).start(11)
    assert torch.equal(turned[:1], song_noise(7, 11))
    assert torch.equal(turned[1:], blend(song_noise(99, 11), song_noise(8, 11), 0.5))


def test_other_seeds_go_round(rng):
    assert torch.equal(Noise((5, 6), Retake(2**64 - 1, 1.0)).start(3), batch_noise((2**64 - 1, 0), 3))


@pytest.mark.parametrize(("seed", "variance"), [(-1, 0.5), (2**64, 0.5), (0, -0.1), (0, 1.1), (0, float("nan"))])
def test_retakes_out_of_range_are_refused(seed, variance):
    with pytest.raises(ValueError, match="retake (seed|variance): expected 0"):
        Retake(seed, variance)


def test_a_start_in_between_is_the_formula(rng):
    noise, music = torch.randn(2, 64, 5, generator=rng(0)), torch.randn(1, 64, 5, generator=rng(1))
    torch.testing.assert_close(noised(noise, music, 0.75), 0.75 * noise + 0.25 * music)
    assert torch.equal(noised(noise, music, 1.0), noise)
