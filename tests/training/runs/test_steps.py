"""What a step learns from: accumulation, padding, the loss that is reported, and that learning happens at all
(spec/lora.md §6 tests 2, 18 and 19)."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from acestep_models.training.batches import collate, make_draws
from acestep_models.training.options import TrainOptions
from acestep_models.training.parallel import Workers
from acestep_models.training.step import Stepper, batch_losses
from acestep_models.training.times import times_for
from acestep_models.training.trainable import inject

KIT = Path(__file__).with_name("kit.py")


def make_stepper(kit, frames, **options):
    """(stepper, its trained parameters by name), the adapter moved off zero."""
    decoder = kit.make_decoder()
    chosen = TrainOptions(rank=4, **options)
    trained = inject(decoder, "lora", 4, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    draws = make_draws(kit.make_data(*frames), chosen, times_for(chosen, "base"))
    device = torch.device("cpu")
    stepper = Stepper(decoder, trained.parameters(), draws, Workers(), device, torch.float32, lambda: None)
    return stepper, trained.named()


def gradients(stepper, named, step=0):
    sums = stepper.gradient(step)
    return {name: parameter.grad.clone() for name, parameter in named.items()}, float(sums[0].sum()) / stepper.items


@pytest.mark.parametrize("frames", [(20, 20, 20, 20), (20, 30, 40, 20)], ids=["one length", "padded"])
def test_four_songs_at_once_are_four_one_after_the_other(kit, frames, relative_error):
    """Exact for one length. Padded, the loss ignores the filling, but self-attention sees it: not equal, documented."""
    apart, loss_apart = gradients(*make_stepper(kit, frames, batch=1, accumulation=4))
    at_once, loss_at_once = gradients(*make_stepper(kit, frames, batch=4, accumulation=1))
    worst = max(relative_error(at_once[name], apart[name]) for name in apart)
    if len(set(frames)) == 1:
        assert worst < 1e-4
        assert loss_at_once == pytest.approx(loss_apart, rel=1e-6)
    else:  # the masked loss is exact: the mean over songs of each one's mean over its own frames
        stepper, _ = make_stepper(kit, frames, batch=4, accumulation=1)
        songs = [stepper.draws.item(number) for number in range(4)]
        batch = collate(songs)
        with torch.no_grad():
            x_t = batch.t[:, None, None] * batch.noise + (1 - batch.t[:, None, None]) * batch.clean
            v = stepper.decoder(x_t, batch.context, batch.tokens, batch.t, batch.seen)
        own = [(v[row, : len(song.clean)] - (song.noise - song.clean)).pow(2).mean() for row, song in enumerate(songs)]
        assert sorted(len(song.clean) for song in songs) == [20, 20, 30, 40]
        assert loss_at_once == pytest.approx(float(sum(own)) / 4, rel=1e-6)
        assert loss_at_once != pytest.approx(loss_apart, rel=1e-6)  # attention sees the filling


def test_the_loss_is_the_true_mean_and_its_gradient_that_of_the_mean(kit):
    """Against the formula written out: x_t = t n + (1 - t) x, v = n - x, mean over frames, then over all items."""
    stepper, named = make_stepper(kit, (20, 30, 40), batch=1, accumulation=3)
    found, loss = gradients(stepper, named, step=2)
    stepper.clear()
    total = 0.0
    for number in (6, 7, 8):
        item = stepper.draws.item(number)
        x, n, t = item.clean[None], item.noise[None], item.t
        context = torch.cat([item.source, torch.ones_like(item.source)], dim=-1)[None]
        v = stepper.decoder(t * n + (1 - t) * x, context, item.tokens[None], t)
        total = total + (v - (n - x)).pow(2).mean()
    (total / 3).backward()
    assert loss == pytest.approx(total.item() / 3, rel=1e-6)
    for name, parameter in named.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_filling_is_no_target(kit):
    """Other noise and other frames where there is filling: the loss of the shorter song does not see the target."""
    stepper, _ = make_stepper(kit, (20, 40), batch=2, accumulation=1)
    items = sorted((stepper.draws.item(number) for number in range(2)), key=lambda item: len(item.clean))
    batch = collate(items)
    assert batch.frames.sum(dim=1).tolist() == [20, 40]

    class Nothing:
        def __call__(self, x, *_, **__):
            return torch.zeros_like(x)

    losses = batch_losses(Nothing(), batch, torch.float32)
    expected = torch.stack([(item.noise - item.clean).pow(2).mean() for item in items])
    torch.testing.assert_close(losses, expected)
    noisier = dataclasses.replace(batch, noise=torch.where(batch.frames[..., None], batch.noise, 100.0))
    torch.testing.assert_close(batch_losses(Nothing(), noisier, torch.float32), expected)


def test_two_processes_draw_what_one_does(kit):
    """The micro-batches of one process with accumulation 6 are those of three processes with accumulation 2."""
    stepper, _ = make_stepper(kit, (20, 20), batch=2, accumulation=6)
    one = list(stepper._micro_batches(1))
    shared = TrainOptions(rank=4, batch=2, accumulation=2)
    draws = dataclasses.replace(stepper.draws, options=shared)
    three = [
        list(dataclasses.replace(stepper, draws=draws, workers=Workers(rank, 3))._micro_batches(1)) for rank in range(3)
    ]
    assert one == [12, 14, 16, 18, 20, 22]
    assert sorted(number for numbers in three for number in numbers) == one
    assert [len(numbers) for numbers in three] == [2, 2, 2]


@pytest.mark.slow
def test_two_processes_under_accelerate_are_one_with_twice_the_accumulation(
    kit, tmp_path, last_state, metrics, two_processes
):
    options = {"steps": 10, "accumulation": 3, "batch": 1, "dropout": 0.1, "validate_every": 5, "learning_rate": 1e-3}
    options["checkpoint_every"] = 5
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *two_processes, str(KIT), str(tmp_path / "two"), json.dumps(options)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    kit.run(tmp_path / "one", **{**options, "accumulation": 6})
    (ours, _), (theirs, _) = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    assert json.loads((tmp_path / "two" / "run.json").read_text())["settings"]["processes"] == 2
    print(f"largest difference {max(float((theirs[name] - ours[name]).abs().max()) for name in ours):.2g}")
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-5, atol=1e-5)
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert (one["validation"] is None) == (two["validation"] is None) == bool(one["step"] % 5)
        assert (two["validation"] or 0) == pytest.approx(one["validation"] or 0, rel=1e-5)


def test_a_rate_of_zero_changes_nothing(kit, tmp_path, metrics):
    watch = kit.Watch()
    kit.run(tmp_path / "run", watcher=watch, learning_rate=0.0, validate_every=1, validation_points=2, steps=3)
    losses = [line["validation"] for line in metrics(tmp_path / "run")]
    assert len(losses) == 3
    assert set(losses) == {watch.plans[0].validation}


@pytest.mark.slow
def test_one_song_is_learned(kit, tmp_path):
    """The loss on the fixed grid: below half of its start, and below what a velocity of zero would have."""
    data = kit.make_data(20, hints=False)
    options = {
        "rank": 32,
        "steps": 400,
        "learning_rate": 2e-2,
        "targets": ["self_attention", "cross_attention", "mlp"],
        "checkpoint_every": 400,
        "validate_every": 100,
        "condition_dropout": 0.0,
        "accumulation": 4,
    }
    result = kit.run(tmp_path / "run", data=data, **options)
    first, last = result.validation
    chosen = TrainOptions(rank=32)
    grid = make_draws(data, chosen, times_for(chosen, "base")).grid()
    zero = sum(float((item.noise - item.clean).pow(2).mean()) for item in grid) / len(grid)
    print(f"validation {first:.4f} -> {last:.4f}, zero velocity {zero:.4f}")
    assert last < 0.5 * first
    assert last < zero
