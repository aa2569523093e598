"""Prodigy against prodigyopt, AdamW against torch's, and what is said where one cannot run."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from acestep_models.training.optimizers import NAMES, USUAL_RATES, make_optimizer
from acestep_models.training.prodigy import Prodigy
from acestep_models.training.schedule import learning_rate


def parameters():
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(6, 5, generator=generator)), torch.nn.Parameter(torch.zeros(4, 6))]


def descend(optimizer, own, steps, start=0, peak=1.0):
    """Fit a product of two matrices; the second starts at zero, as a LoRA does. A gradient is missing now and then."""
    target = torch.randn(4, 5, generator=torch.Generator().manual_seed(9))
    for step in range(start, start + steps):
        optimizer.zero_grad()
        (own[1] @ own[0] - target).square().sum().backward()
        if step == 3:
            own[0].grad = None
        optimizer.param_groups[0]["lr"] = learning_rate(step, 200, peak, 5)
        optimizer.step()
    return float((own[1] @ own[0] - target).square().sum())


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_prodigy_is_prodigyopts(safe, decay, capsys):
    from prodigyopt import Prodigy as Theirs

    ours, theirs = parameters(), parameters()
    one = Prodigy(ours, lr=1.0, weight_decay=decay, safe_warmup=safe)
    two = Theirs(theirs, lr=1.0, weight_decay=decay, safeguard_warmup=safe)
    losses = descend(one, ours, 200), descend(two, theirs, 200)
    assert one.param_groups[0]["d"] == pytest.approx(two.param_groups[0]["d"], rel=1e-5)
    assert one.param_groups[0]["d"] > 1e-3  # it grew from 1e-6
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) < 1e-4
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("name", ["adamw", "prodigy"])
def test_an_optimizer_goes_on_bit_for_bit_from_its_state(name):
    straight, first, second = parameters(), parameters(), parameters()
    peak = USUAL_RATES[name]
    descend(make_optimizer(name, straight, peak, 0.01), straight, 20, peak=peak)
    half = make_optimizer(name, first, peak, 0.01)
    descend(half, first, 10, peak=peak)
    state = copy.deepcopy(half.state_dict())
    with torch.no_grad():
        for new, old in zip(second, first, strict=True):
            new.copy_(old)
    rest = make_optimizer(name, second, peak, 0.01)
    rest.load_state_dict(state)
    descend(rest, second, 10, start=10, peak=peak)
    assert all(torch.equal(a, b) for a, b in zip(straight, second, strict=True))


def test_adamw_is_torchs():
    ours, theirs = parameters(), parameters()
    descend(make_optimizer("adamw", ours, 1e-2, 0.1), ours, 50, peak=1e-2)
    descend(torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1), theirs, 50, peak=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["adamw", "prodigy"])
def test_a_rate_of_zero_changes_no_bit(name):
    own = parameters()
    before = [value.detach().clone() for value in own]
    optimizer = make_optimizer(name, own, 0.0, 0.01)
    for _ in range(3):
        for value in own:
            value.grad = torch.ones_like(value)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(own, before, strict=True))


def test_what_cannot_run_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes.*choose 'adamw'"):
        make_optimizer("adamw8bit", parameters(), 1e-4, 0.0)
    with pytest.raises(ValueError, match=f"expected one of {', '.join(NAMES)}, got 'sgd'"):
        make_optimizer("sgd", parameters(), 1e-4, 0.0)
    monkeypatch.setitem(sys.modules, "bitsandbytes", object())
    with pytest.raises(ValueError, match="CUDA card only"):
        make_optimizer("adamw8bit", parameters(), 1e-4, 0.0)
    with pytest.raises(ValueError, match="Prodigy: expected lr"):
        Prodigy(parameters(), lr=-1.0)


def test_no_gradient_at_all_is_no_step():
    own = parameters()
    before = [value.detach().clone() for value in own]
    optimizer = Prodigy(own)
    optimizer.step()
    for value in own:
        value.grad = torch.zeros_like(value)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(own, before, strict=True))
