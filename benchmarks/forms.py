"""What networks of the real size say with their weights in one form or another, and how like two answers are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from held import WHOLE, Form, Pack, State, bytes_of, hold_planner
from lm import CODE_BASE, CODES
from torch import Tensor

DTYPE = torch.bfloat16
TEXT = 64  # tokens
SEED = 3


def network_answers(model: Any, conditioner: Any) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Text encoder, condition encoder and decoder: what they say to fixed inputs, and their bytes."""
    draw = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(DTYPE)

    text, condition = conditioner.text.module, conditioner.condition.module
    decoder = model.model.diffusion_model
    ids = torch.randint(0, 150_000, (1, 100), generator=draw)
    read = random(1, 100, 1024), random(1, 200, 1024), random(1, 750, 64)
    step = random(1, 64, 250), torch.full((1,), 0.7, dtype=DTYPE), random(1, 301, 2048), random(1, 128, 250)
    with torch.inference_mode():
        said = {"text encoder": text(ids), "condition encoder": condition(*read), "decoder": decoder(*step)}
    networks = (text, condition, decoder)
    return said, {name: bytes_of(module) for name, module in zip(said, networks, strict=True)}


def code_answers(pack: Pack, part: str, state: State, form: Form = WHOLE) -> tuple[Tensor, Tensor, Tensor, int]:
    """After each token of one random text: hidden states [1, L, H], likeliest codes [L], drawn codes [L]; bytes."""
    sampling = pack("acestep_models.planner.sampling")
    network = hold_planner(pack, part, state, DTYPE, form).model.module
    ids = torch.randint(0, 150_000, (1, TEXT), generator=torch.Generator().manual_seed(5))
    table = network.embed_tokens.weight[CODE_BASE : CODE_BASE + CODES]
    with torch.inference_mode():
        hidden = network(ids)
        logits = (hidden[0] @ table.T).float()  # [L, 64000]
    drawn = sampling.pick(logits, sampling.uniforms([SEED], TEXT)[:, 0], sampling.TokenSampling())
    return hidden, logits.argmax(-1), drawn, bytes_of(network)


def alike(a: Tensor, b: Tensor) -> float:
    """Cosine of two tensors."""
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def apart(a: Tensor, b: Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((a - b).abs().max() / b.abs().max())


def share(a: Tensor, b: Tensor) -> float:
    """How many of two rows of codes are the same."""
    return float((a == b).float().mean())
