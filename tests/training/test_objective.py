"""The objective's algebra, the schedule and the average against formulas and torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from acestep_models.training.average import EMA
from acestep_models.training.objective import clean, item_losses, noisy, velocity, weight
from acestep_models.training.schedule import learning_rate


def test_velocity_leads_from_the_noise_to_the_song(rng):
    x0, eps = torch.randn(2, 3, 20, 8, generator=rng(1))
    t = torch.tensor([0.0, 0.4, 1.0])
    x_t, v = noisy(x0, eps, t), velocity(x0, eps)
    assert torch.equal(x_t[0], x0[0]) and torch.equal(x_t[2], eps[2])
    assert torch.allclose(clean(x_t, t, v), x0, atol=1e-6)
    assert torch.allclose(x_t, x0 + t[:, None, None] * v, atol=1e-6)
    assert torch.allclose(noisy(x0, eps, t + 0.1) - x_t, 0.1 * v, atol=1e-6)  # v is dx/dt
    assert x_t.dtype == torch.float32


def test_loss_is_each_items_own_mean_without_padding(rng):
    v, target = torch.randn(2, 2, 10, 8, generator=rng(1))
    mask = torch.tensor([[True] * 10, [True] * 6 + [False] * 4])
    expected = [((v[0] - target[0]) ** 2).mean(), ((v[1, :6] - target[1, :6]) ** 2).mean()]
    assert item_losses(v, target, mask).tolist() == pytest.approx([float(one) for one in expected], rel=1e-6)
    v[1, 6:] = float("nan")  # whatever the padding holds
    assert item_losses(v, target, mask).tolist() == pytest.approx([float(one) for one in expected], rel=1e-6)
    alone = [float(item_losses(v[:1], target[:1])), float(item_losses(v[1:, :6], target[1:, :6]))]
    assert item_losses(v, target, mask).tolist() == pytest.approx(alone, rel=1e-6)
    assert item_losses(v.bfloat16(), target.bfloat16(), mask).dtype == torch.float32
    with pytest.raises(ValueError, match="item 1 of the batch has no frame"):
        item_losses(v, target, mask & torch.tensor([[True], [False]]))


def test_weights():
    t = torch.tensor([0.05, 0.2, 0.5, 1.0])
    assert weight(t, "none").tolist() == [1.0] * 4
    snr = [((1 - one) / one) ** 2 for one in (0.05, 0.2, 0.5)]
    assert weight(t, "min-snr").tolist() == pytest.approx([min(one, 5.0) / one for one in snr] + [1.0], rel=1e-5)
    with pytest.raises(ValueError, match="weighting: expected one of none, min-snr, got 'x'"):
        weight(t, "x")


@pytest.mark.parametrize(("steps", "warmup"), [(200, None), (2000, None), (50, 0), (30, 7)])
def test_the_schedule_is_upstreams(steps, warmup):
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    peak, first = 3e-4, min(100, steps // 10) if warmup is None else warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    rise = LinearLR(optimizer, start_factor=0.1, total_iters=max(first, 1))
    fall = CosineAnnealingLR(optimizer, T_max=steps - first, eta_min=peak * 0.01)
    both = SequentialLR(optimizer, [rise, fall], milestones=[first]) if first else fall
    if not first:
        optimizer.param_groups[0]["lr"] = peak
    for step in range(steps):
        assert learning_rate(step, steps, peak, warmup) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        both.step()


def test_the_schedule_of_short_runs_and_wrong_steps():
    assert learning_rate(0, 1, 2.0) == 2.0
    assert learning_rate(1, 2, 2.0) == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    with pytest.raises(ValueError, match="step: expected 0 to 9, got 10"):
        learning_rate(10, 10, 1.0)
    with pytest.raises(ValueError, match="warmup: expected 0 to 9 steps, got 10"):
        learning_rate(0, 10, 1.0, 10)


def test_the_average_follows_its_formula_and_goes_on_exactly():
    values = [float(step) for step in range(1, 200)]
    named = {"a": torch.tensor([0.0])}
    average, expected = EMA(0.9, named), 0.0
    for step, value in enumerate(values):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        named["a"].fill_(value)
        average.update(named, step)
    assert float(average.values["a"]) == pytest.approx(expected, rel=1e-5)
    again = EMA(0.9, named)
    again.load({key: value.clone() for key, value in average.values.items()})
    for one in (average, again):
        one.update({"a": torch.tensor([5.0])}, 200)
    assert torch.equal(average.values["a"], again.values["a"])
    with pytest.raises(ValueError, match="other parameters"):
        again.load({"b": torch.zeros(1)})
    with pytest.raises(ValueError, match="decay between 0 and 1"):
        EMA(1.0, named)
    assert math.isfinite(expected)
