"""Parts and joins against sums written out, and what can be heard of their seams."""

from __future__ import annotations

import math
import random

import pytest
import torch

from acestep_models.audio.arrange import Fade, arrange, join, weights

TWO_PI = 2 * math.pi


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("curve", "ends", "begins"),
    [
        ("linear", lambda x: 1 - x, lambda x: x),
        ("equal power", lambda x: math.cos(math.pi * x / 2), lambda x: math.sin(math.pi * x / 2)),
    ],
)
def test_curves_are_their_formulas(curve, ends, begins):
    falling, rising = weights(9, curve)
    for k in range(1, 10):
        assert float(falling[k - 1]) == pytest.approx(ends(k / 10), abs=1e-7)
        assert float(rising[k - 1]) == pytest.approx(begins(k / 10), abs=1e-7)


def test_linear_keeps_the_sum_and_equal_power_the_power():
    assert torch.allclose(sum(weights(50, "linear")), torch.ones(50))
    assert torch.allclose(sum(part**2 for part in weights(50, "equal power")), torch.ones(50), atol=1e-6)


def test_parts_without_a_crossfade_are_the_values_themselves():
    values = noise(2, 3, 100)
    made = arrange(values, [(50, 60), (0, 10), (90, 100)], Fade(0))
    assert torch.equal(made, torch.cat([values[..., 50:60], values[..., :10], values[..., 90:]], dim=-1))


def test_parts_that_follow_each_other_are_left_alone():
    values = noise(1, 2, 100)
    made = arrange(values, [(10, 30), (30, 50), (50, 51)], Fade(8, "equal power"))
    assert torch.equal(made, values[..., 10:51])


@pytest.mark.parametrize(
    ("parts", "total", "places", "before", "behind"),
    [
        (((20, 40), (60, 80)), 100, 8, 4, 4),
        (((20, 40), (60, 80)), 100, 7, 3, 4),
        (((20, 40), (60, 80)), 100, 1, 0, 1),
        (((20, 40), (60, 80)), 100, 90, 10, 10),  # at most half of a part
        (((20, 40), (0, 30)), 100, 8, 0, 8),  # nothing before the start
        (((50, 100), (30, 60)), 100, 8, 8, 0),  # nothing behind the end
        (((50, 98), (30, 60)), 100, 8, 6, 2),
        (((20, 40), (3, 30)), 100, 8, 3, 5),
    ],
)
def test_a_crossfade_takes_what_lies_outside_of_the_parts(parts, total, places, before, behind):
    values = noise(1, 2, total)
    made = arrange(values, parts, Fade(places))
    (s1, e1), (s2, e2) = parts
    wanted = torch.cat([values[..., s1:e1], values[..., s2:e2]], dim=-1)
    length, seam = before + behind, e1 - s1
    for k in range(1, length + 1):
        x = k / (length + 1)
        place = k - 1 - before
        wanted[..., seam + place] = (1 - x) * values[..., e1 + place] + x * values[..., s2 + place]
    assert torch.allclose(made, wanted, atol=1e-6)
    outside = [*range(seam - before), *range(seam + behind, wanted.shape[-1])]
    assert torch.equal(made[..., outside], wanted[..., outside])


def test_a_whole_loop_fades_out_and_in_and_latents_are_cut_hard():
    values = torch.ones(1, 2, 100)
    made = arrange(values, [(0, 100)] * 2, Fade(6))
    dip = torch.tensor([0.75, 0.5, 0.25])
    assert torch.allclose(made[0, 0, 97:103], torch.cat([dip, dip.flip(0)]))
    assert torch.equal(made[..., :97], values[..., :97]) and made.shape[-1] == 200
    assert torch.equal(arrange(values, [(0, 100)] * 2, Fade(6), dip=False), torch.ones(1, 2, 200))


def test_a_loop_is_in_time_and_its_source_untouched_in_200_random_cases():
    draw = random.Random(3)
    for seed in range(200):
        values = noise(1, 2, draw.randint(20, 400), seed=seed)
        before = values.clone()
        start, end = sorted(draw.sample(range(values.shape[-1] + 1), 2))
        times, places = draw.randint(2, 5), draw.randint(0, 60)
        made = arrange(values, [(start, end)] * times, Fade(places, draw.choice(["linear", "equal power"])))
        size = end - start
        assert made.shape[-1] == times * size and torch.equal(values, before)
        if size % 2:  # a crossfade reaches to the middle of a part, of an odd one not to the place in it
            for turn in range(times):
                assert torch.equal(made[..., turn * size + size // 2], values[..., start + size // 2]), seed


@pytest.mark.parametrize("parts", [[], [(0, 0)], [(5, 4)], [(-1, 4)], [(0, 101)]])
def test_parts_that_are_not_there_are_refused(parts):
    with pytest.raises(ValueError, match="parts: "):
        arrange(torch.zeros(1, 2, 100), parts, Fade(0))


@pytest.mark.parametrize("curve", ["linear", "equal power"])
def test_a_join_is_its_formula(curve):
    first, second = noise(1, 2, 50), noise(1, 2, 40, seed=1)
    made = join(first, second, Fade(9, curve))
    assert made.shape[-1] == 81
    assert torch.equal(made[..., :41], first[..., :41]) and torch.equal(made[..., 50:], second[..., 9:])
    falling, rising = weights(9, curve)
    assert torch.allclose(made[..., 41:50], first[..., 41:] * falling + second[..., :9] * rising, atol=1e-6)
    assert torch.equal(join(first, second, Fade(0)), torch.cat([first, second], dim=-1))


def test_bad_fades_are_refused():
    with pytest.raises(ValueError, match="crossfade: 41 places are more than one of the parts has"):
        join(torch.zeros(1, 2, 50), torch.zeros(1, 2, 40), Fade(41))
    with pytest.raises(ValueError, match="crossfade: expected 0 or more"):
        Fade(-1)
    with pytest.raises(ValueError, match="curve: expected one of linear, equal power"):
        Fade(1, "cubic")


def largest_step(wave):
    return float(wave.diff(dim=-1).abs().max())


@pytest.mark.parametrize("curve", ["linear", "equal power"])
@pytest.mark.parametrize("phase", [0.0, 1.0, math.pi / 2, 2.5])
def test_no_seam_of_two_tones_steps_further_than_1_5_times_their_slope(curve, phase):
    rate, places, level = 48_000, 960, 0.5
    time = torch.arange(rate, dtype=torch.float64) / rate
    low = (level * torch.sin(TWO_PI * 220 * time)).float()
    high = (level * torch.sin(TWO_PI * 330 * time + phase)).float()
    limit = level * TWO_PI * 330 / rate
    both = torch.cat([low, high])[None, None]
    joined = join(low[None, None], high[None, None], Fade(places, curve))
    moved = arrange(both, [(5_000, 30_001), (60_003, 90_000)], Fade(places, curve))
    looped = arrange(both, [(5_003, 20_000)] * 4, Fade(places, curve))
    whole = arrange(low[None, None, :40_000], [(0, 40_000)] * 3, Fade(places, curve))
    assert max(map(largest_step, (joined, moved, looped, whole))) <= 1.5 * limit
