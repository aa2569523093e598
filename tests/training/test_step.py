"""What a step's loss sees of the condition, and whose random numbers it takes (spec/lora.md §6 test 6)."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.config import DiTConfig
from acestep_models.dit.transformer import DiT
from acestep_models.training.around import Around
from acestep_models.training.batches import collate, make_draws
from acestep_models.training.examples import Example, Prepared
from acestep_models.training.noise import seed_for
from acestep_models.training.options import TrainOptions
from acestep_models.training.step import Stepper, _own_random, batch_losses
from acestep_models.training.times import times_for

CONFIG = DiTConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=64,
    encoder_hidden_size=32,
    fsq_dim=32,
    in_channels=24,
    audio_acoustic_hidden_dim=8,
    sliding_window=4,
)


def numbers(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def songs(condition):
    made = Example("a.wav", numbers(1, 20, 8), numbers(condition, 6, 32))
    return Prepared((made,), numbers(3, 1, 32), numbers(4, 20, 8), "f", {})


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    made = DiT(CONFIG)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


def losses(decoder, condition, share):
    options = TrainOptions(condition_dropout=share, hint_share=0.0)
    draws = make_draws(songs(condition), options, times_for(options, "base"))
    with torch.no_grad():
        return batch_losses(decoder, collate([draws.item(number) for number in range(4)]), torch.float32)


def test_a_condition_that_is_always_dropped_does_not_count(decoder):
    assert torch.equal(losses(decoder, 10, 1.0), losses(decoder, 11, 1.0))


def test_a_condition_that_is_never_dropped_does(decoder):
    assert not torch.equal(losses(decoder, 10, 0.0), losses(decoder, 11, 0.0))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_step_leaves_torchs_own_random_numbers(decoder, dropout):
    options = TrainOptions(dropout=dropout)
    draws = make_draws(songs(10), options, times_for(options, "base"))
    around = Around()
    parameters = list(decoder.parameters())
    stepper = Stepper(decoder, parameters, draws, around.workers, around.device, torch.float32, lambda: None)
    before = torch.random.get_rng_state()
    stepper.gradient(0)
    stepper.clear()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_is_of_its_own_seed_on_all_cards(monkeypatch):
    forked = []
    real = torch.random.fork_rng
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forked.append(list(devices)) or real(devices=[]))
    seed = seed_for(0, "dropout", 3)
    with _own_random(seed, True):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    with _own_random(seed, False):
        pass
    assert forked == [[0, 1]]
