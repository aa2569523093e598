"""Training on a CUDA card: memory against its estimate, and the optimizer that runs nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch

from acestep_models.dit.config import DiTConfig
from acestep_models.dit.transformer import DiT
from acestep_models.training.checkpointed import recompute
from acestep_models.training.memory import estimate
from acestep_models.training.objective import item_losses, noisy, velocity
from acestep_models.training.optimizers import make_optimizer
from acestep_models.training.options import TrainOptions
from acestep_models.training.trainable import inject

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE, HALF, TOKENS = torch.device("cuda"), torch.bfloat16, 300
CONFIG = DiTConfig(num_hidden_layers=6)  # of the real width


def micro_step(decoder, frames):
    """Forward and backward of one item."""
    channels, width = decoder.config.audio_acoustic_hidden_dim, decoder.config.encoder_hidden_size
    x0, eps = (torch.randn(1, frames, channels, device=DEVICE) for _ in range(2))
    tokens = torch.randn(1, TOKENS, width, device=DEVICE, dtype=HALF)
    context = torch.zeros(1, frames, 2 * channels, device=DEVICE, dtype=HALF)
    t = torch.tensor([0.5], device=DEVICE)
    v = decoder(noisy(x0, eps, t).to(HALF), context, tokens, t)
    item_losses(v, velocity(x0, eps)).mean().backward()


@pytest.mark.parametrize("recomputed", ["off", "on"])
@pytest.mark.parametrize("seconds", [60, 240])
def test_memory_is_as_estimated(seconds, recomputed):
    """spec/lora.md §6 test 23: what a step adds to the loaded decoder, within a quarter."""
    torch.manual_seed(0)
    decoder = DiT(CONFIG, device=DEVICE, dtype=HALF).requires_grad_(False)
    options = TrainOptions(recompute=recomputed)
    trainable = inject(decoder, options.kind, options.rank)
    recompute(decoder, recomputed == "on")
    parameters = trainable.parameters()
    optimizer = make_optimizer("adamw", parameters, 1e-4, 0.01)
    before = torch.cuda.memory_allocated(DEVICE) - sum(one.numel() * 4 for one in parameters)
    micro_step(decoder, 20)
    optimizer.step()  # its state is there when the long item comes
    torch.cuda.reset_peak_memory_stats(DEVICE)
    micro_step(decoder, 25 * seconds)
    optimizer.step()
    grown = torch.cuda.max_memory_allocated(DEVICE) - before
    expected = estimate(CONFIG, options, 25 * seconds, TOKENS, HALF).growth
    assert 0.75 < grown / expected < 1.25


def test_adamw_8bit_goes_on_bit_for_bit():
    pytest.importorskip("bitsandbytes", reason="its own optimizer needs it")

    def fresh():
        generator = torch.Generator().manual_seed(3)
        return [torch.nn.Parameter(torch.randn(128, 128, generator=generator).to(DEVICE)) for _ in range(2)]

    def descend(optimizer, own, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (own[1] @ own[0] - 1).square().mean().backward()
            optimizer.step()

    straight, parts = fresh(), fresh()
    descend(make_optimizer("adamw8bit", straight, 1e-2, 0.01), straight, 20)
    half = make_optimizer("adamw8bit", parts, 1e-2, 0.01)
    descend(half, parts, 10)
    state = copy.deepcopy(half.state_dict())
    rest = make_optimizer("adamw8bit", parts, 1e-2, 0.01)
    rest.load_state_dict(state)
    descend(rest, parts, 10)
    assert all(torch.equal(a, b) for a, b in zip(straight, parts, strict=True))
