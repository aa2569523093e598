"""Qwen3 against transformers' Qwen3, and cached against uncached passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acestep_models.ops import META
from acestep_models.qwen3.cache import KVCache
from acestep_models.qwen3.model import LM_06B, LM_4B, LM_17B, TEXT_ENCODER, Qwen3, Qwen3Config, activation_bytes

RelativeError = Callable[[Tensor, Tensor], float]

# heads * head_dim is 64, which is not the width 48, and 4 query heads share 2 key heads.
TINY = Qwen3Config(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rope_theta=10_000.0,
)


def theirs(config: Qwen3Config, kind: str) -> Any:
    import transformers

    given = transformers.Qwen3Config(
        **{name: getattr(config, name) for name in config.__dataclass_fields__},
        max_position_embeddings=512,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    return getattr(transformers, kind)(given).eval()


@pytest.fixture
def model(perturb: Callable[..., nn.Module]) -> Qwen3:
    torch.manual_seed(0)
    built = perturb(Qwen3(TINY), 1)
    assert isinstance(built, Qwen3)
    return built


@pytest.fixture
def ids(rng: Callable[[int], torch.Generator]) -> Tensor:
    return torch.randint(0, TINY.vocab_size, (2, 40), generator=rng(2))


@torch.no_grad()
@pytest.mark.parametrize("width", [48, 64])
def test_equals_transformers(
    width: int, perturb: Callable[..., nn.Module], ids: Tensor, relative_error: RelativeError
) -> None:
    config = replace(TINY, hidden_size=width)
    oracle = perturb(theirs(config, "Qwen3Model"), 3)
    model = Qwen3(config, device=META)
    model.load_state_dict(oracle.state_dict(), strict=True, assign=True)
    expected = oracle(input_ids=ids).last_hidden_state
    assert relative_error(model(ids), expected) < 1e-5
    assert relative_error(model(model.embed(ids)), expected) < 1e-5
    assert torch.equal(model.embed(ids), oracle.embed_tokens(ids))


@torch.no_grad()
def test_logits_use_the_embedding(
    perturb: Callable[..., nn.Module], ids: Tensor, relative_error: RelativeError
) -> None:
    oracle = perturb(theirs(TINY, "Qwen3ForCausalLM"), 4)
    model = Qwen3(TINY, device=META)
    model.load_state_dict(oracle.model.state_dict(), strict=True, assign=True)
    assert relative_error(model.logits(model(ids)), oracle(input_ids=ids).logits) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("prefill", [1, 7, 39])
def test_cached_steps_equal_the_whole_pass(
    model: Qwen3, ids: Tensor, prefill: int, relative_error: RelativeError
) -> None:
    whole = model(ids)
    cache = KVCache(TINY, batch=2, capacity=40)
    parts = [model(ids[:, :prefill], cache=cache)]
    parts += [model(ids[:, at : at + 1], cache=cache) for at in range(prefill, 40)]
    assert cache.length == 40
    assert relative_error(torch.cat(parts, dim=1), whole) < 1e-5


@torch.no_grad()
def test_chunks_rewind_and_one_text_alone(model: Qwen3, ids: Tensor, relative_error: RelativeError) -> None:
    whole = model(ids)
    cache = KVCache(TINY, batch=2, capacity=64)
    chunks = [model(part, cache=cache) for part in ids.split([5, 11, 24], dim=1)]
    assert relative_error(torch.cat(chunks, dim=1), whole) < 1e-5
    cache.rewind(16)
    assert relative_error(model(ids[:, 16:], cache=cache), whole[:, 16:]) < 1e-5
    alone = KVCache(TINY, batch=1, capacity=40)
    steps = [model(ids[1:, at : at + 1], cache=alone) for at in range(40)]
    assert relative_error(torch.cat(steps, dim=1), whole[1:]) < 1e-5


@torch.no_grad()
def test_left_padding_changes_nothing(model: Qwen3, ids: Tensor, relative_error: RelativeError) -> None:
    long, short = ids[:1], ids[1:, :25]
    padded = torch.cat([long, torch.cat([torch.zeros(1, 15, dtype=torch.int64), short], dim=1)])
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, :15] = False
    out = model(padded, mask=mask)
    assert bool(out.isfinite().all())
    assert relative_error(out[:1], model(long)) < 1e-5
    assert relative_error(out[1:, 15:], model(short)) < 1e-5
    cache = KVCache(TINY, batch=2, capacity=40)
    parts = [model(padded[:, :30], cache=cache, mask=mask[:, :30])]
    parts += [model(padded[:, at : at + 1], cache=cache, mask=mask[:, : at + 1]) for at in range(30, 40)]
    assert relative_error(torch.cat(parts, dim=1)[1:, 15:], model(short)) < 1e-5


@torch.no_grad()
def test_the_future_is_hidden(model: Qwen3, ids: Tensor) -> None:
    other = ids.clone()
    other[:, 20:] = (other[:, 20:] + 1) % TINY.vocab_size
    assert torch.equal(model(ids)[:, :20], model(other)[:, :20])
    assert not torch.equal(model(ids)[:, 20:], model(other)[:, 20:])


@torch.no_grad()
def test_wrong_sizes_are_named(model: Qwen3, ids: Tensor) -> None:
    cache = KVCache(TINY, batch=2, capacity=50)
    model(ids, cache=cache)
    with pytest.raises(ValueError, match=r"50 positions, 40 of them filled: 11 more do not fit"):
        model(ids[:, :11], cache=cache)
    assert cache.length == 40
    with pytest.raises(ValueError, match=r"made for 2 texts, got 1"):
        model(ids[:1, :1], cache=cache)
    with pytest.raises(ValueError, match=r"holds 40 positions, it cannot be rewound to 41"):
        cache.rewind(41)
    with pytest.raises(ValueError, match=r"mask must be \[2, 41\], got \[2, 40\]"):
        model(ids[:, :1], cache=cache, mask=torch.ones(2, 40, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"3 key heads do not divide 4 query heads"):
        replace(TINY, num_key_value_heads=3)


@pytest.mark.parametrize(
    ("config", "parameters", "body"),
    [
        (TEXT_ENCODER, 595_776_512, 440.5e6),
        (LM_06B, 1_325_768_704 // 2, 440.5e6),
        (LM_17B, 3_708_487_680 // 2, 1409.4e6),
        (LM_4B, 8_379_108_352 // 2, 3633.5e6),
    ],
)
def test_published_sizes(config: Qwen3Config, parameters: int, body: float) -> None:
    model = Qwen3(config, device=META, dtype=torch.bfloat16)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == parameters
    assert counted - model.embed_tokens.weight.numel() == pytest.approx(body, abs=0.05e6)
    assert not list(model.buffers())


@torch.no_grad()
@pytest.mark.parametrize("tokens", [16, 256])
def test_activation_bytes_bound_what_is_measured(perturb: Callable[..., nn.Module], tokens: int) -> None:
    config = replace(TINY, hidden_size=256, intermediate_size=768, head_dim=32, num_attention_heads=8)
    model = Qwen3(config)
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        model(ids)
    peak = live = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    promised = activation_bytes(config, 1, tokens, torch.float32)
    assert 0 < peak <= promised <= 8 * peak
    assert activation_bytes(config, 3, tokens, torch.float32) == 3 * promised
