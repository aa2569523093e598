"""A tiny decoder, adapters of every kind for its modules, and what PEFT makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call

from acestep_models.adapters.adapter import Adapter, AdapterFacts
from acestep_models.adapters.delta import DoRA, Full, LoHa, LoKr, LowRank, merge_into
from acestep_models.dit.config import DiTConfig
from acestep_models.dit.transformer import DiT

CONFIG = DiTConfig(
    hidden_size=32,
    encoder_hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    sliding_window=4,
    fsq_dim=24,
)


@pytest.fixture(scope="session")
def decoder(perturb):
    """A perturbed tiny decoder; nobody may change it."""
    return perturb(DiT(CONFIG), 11)


@pytest.fixture(scope="session")
def song(decoder):
    """Inputs of the decoder; the times differ."""
    generator = torch.Generator().manual_seed(7)
    C, E = CONFIG.audio_acoustic_hidden_dim, CONFIG.encoder_hidden_size
    return dict(
        x=torch.randn(2, 24, C, generator=generator),
        context=torch.randn(2, 24, 2 * C, generator=generator),
        tokens=torch.randn(2, 7, E, generator=generator),
        t=torch.tensor([0.9, 0.3]),
    )


@pytest.fixture(scope="session")
def shapes(decoder):
    """Module of the decoder -> shape of its weight."""
    state = decoder.state_dict()
    return {key.removesuffix(".weight"): tuple(value.shape) for key, value in state.items() if key.endswith(".weight")}


@pytest.fixture(scope="session")
def play(decoder, song):
    """play((deltas, strength), ...) -> velocity of the decoder with those merged into its weights one by one."""

    def run(*merged):
        state = dict(decoder.state_dict())
        for deltas, strength in merged:
            for name, delta in deltas.items():
                state[f"{name}.weight"] = merge_into(state[f"{name}.weight"], delta, strength)
        with torch.no_grad():
            return functional_call(decoder, state, (), song)

    return run


@pytest.fixture(scope="session")
def make_delta():
    """make_delta(kind, shape, seed, rank, scale) -> a random delta of about the size of a weight."""

    def noise(generator, *shape):
        return torch.randn(shape, generator=generator)

    def make(kind, shape, seed=0, rank=3, scale=0.5):
        generator = torch.Generator().manual_seed(seed)
        out, size = shape[0], math.prod(shape[1:])
        if kind == "lora":
            return LowRank(noise(generator, rank, *shape[1:]), noise(generator, out, rank), scale)
        if kind == "lokr":
            left, right = noise(generator, 4, 2), (noise(generator, out // 4, rank), noise(generator, rank, size // 2))
            return LoKr((left,), right, scale)
        if kind == "lokr_whole":
            return LoKr((noise(generator, 4, 2),), (noise(generator, out // 4, size // 2),), scale)
        if kind == "loha":
            pairs = [(noise(generator, out, rank), noise(generator, rank, size)) for _ in range(2)]
            return LoHa(pairs[0], pairs[1], scale)
        if kind == "dora":
            return DoRA(make("lora", shape, seed, rank, scale), noise(generator, out).abs() + 0.5)
        return Full(noise(generator, *shape))

    return make


@pytest.fixture(scope="session")
def make_adapter(shapes, make_delta):
    """make_adapter(kind, seed, names, **facts) -> an adapter for attention and MLP of the tiny decoder.

    Ranks and scales differ from module to module.
    """

    def make(kind="lora", seed=0, names=("q_proj", "o_proj", "down_proj"), **facts):
        chosen = [name for name in shapes if name.endswith(tuple(names))]
        deltas = {
            name: make_delta(kind, shapes[name], 100 * seed + index, rank=2 + index % 3, scale=0.25 * (1 + index % 2))
            for index, name in enumerate(chosen)
        }
        return Adapter(deltas, AdapterFacts("made here", width=CONFIG.hidden_size, **facts))

    return make


@pytest.fixture(scope="session")
def peft_model():
    """peft_model(config) -> a new copy of the tiny decoder with PEFT's random adapter in it."""

    def build(decoder, config):
        import peft

        copy = DiT(CONFIG)
        copy.load_state_dict(decoder.state_dict())
        torch.manual_seed(5)
        return peft.get_peft_model(copy, config).eval()

    return build
