"""The shared layers by their formulas and invariants; whole networks against oracles are tested where they live."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from acestep_models.layers import (
    Attention,
    EncoderLayer,
    FeedForward,
    LayerShape,
    apply_rotary,
    parameter,
    rotary_table,
    sliding_mask,
)
from acestep_models.ops import META

SHAPE = LayerShape(width=12, heads=4, kv_heads=2, head_dim=6, hidden=20)


@pytest.fixture
def x(rng):
    return torch.randn(2, 7, 12, generator=rng(1))


def attend_slowly(net, x, rope, mask=None, context=None):
    """Attention by the formulas of spec/audio.md §2.1, head by head."""
    source = x if context is None else context

    def norm(values, weight):
        return values / (values.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    heads = []
    for head in range(4):
        group = head // 2
        q = norm((x @ net.q_proj.weight.T)[..., 6 * head : 6 * head + 6], net.q_norm.weight)
        k = norm((source @ net.k_proj.weight.T)[..., 6 * group : 6 * group + 6], net.k_norm.weight)
        v = (source @ net.v_proj.weight.T)[..., 6 * group : 6 * group + 6]
        if rope is not None:
            q, k = (apply_rotary(part[:, None], *rope)[:, 0] for part in (q, k))
        scores = q @ k.transpose(1, 2) / math.sqrt(6)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, dim=-1) @ net.o_proj.weight.T


@pytest.mark.parametrize("window", [None, 2])
def test_attention_is_its_formula(perturb, x, relative_error, window):
    net = perturb(Attention(SHAPE), 1)
    rope = rotary_table(7, 6, 1e4, device="cpu", dtype=torch.float32)
    mask = None if window is None else sliding_mask(7, window, "cpu")
    with torch.no_grad():
        assert relative_error(net(x, rope=rope, mask=mask), attend_slowly(net, x, rope, mask)) < 1e-5


def test_attention_to_a_context_is_its_formula(perturb, x, rng, relative_error):
    net, context = perturb(Attention(SHAPE), 1), torch.randn(2, 11, 12, generator=rng(2))
    with torch.no_grad():
        assert relative_error(net(x, context=context), attend_slowly(net, x, None, context=context)) < 1e-5


def test_causal_is_the_triangular_mask(perturb, x, relative_error):
    net = perturb(Attention(SHAPE), 1)
    rope = rotary_table(7, 6, 1e4, device="cpu", dtype=torch.float32)
    triangle = torch.ones(7, 7, dtype=torch.bool).tril()
    with torch.no_grad():
        assert relative_error(net(x, rope=rope, causal=True), net(x, rope=rope, mask=triangle)) < 1e-5


class GrowingCache:
    """The simplest cache there is."""

    def __init__(self):
        self.pair = None

    def attend(self, q, k, v, see, mask, causal):
        new = (k, v)
        self.pair = new if self.pair is None else tuple(torch.cat(both, 2) for both in zip(self.pair, new, strict=True))
        return see(q, *self.pair, mask, causal)


def test_a_cache_gives_the_uncached_result(perturb, x, relative_error):
    net, cache = perturb(EncoderLayer(SHAPE), 1), GrowingCache()
    rope = rotary_table(7, 6, 1e4, device="cpu", dtype=torch.float32)

    def part(start, end):
        return tuple(table[start:end] for table in rope)

    with torch.no_grad():
        whole = net(x, rope=rope, causal=True)
        parts = [net(x[:, :4], rope=part(0, 4), causal=True, cache=cache)]
        parts += [net(x[:, i : i + 1], rope=part(i, i + 1), cache=cache) for i in range(4, 7)]
    assert cache.pair[0].shape == (2, 2, 7, 6)
    assert relative_error(torch.cat(parts, dim=1), whole) < 1e-5


def test_encoder_layer_is_two_residuals(perturb, x):
    net = perturb(EncoderLayer(SHAPE), 1)
    with torch.no_grad():
        h = x + net.self_attn(net.input_layernorm(x))
        assert torch.equal(net(x), h + net.mlp(net.post_attention_layernorm(h)))


def test_feed_forward_is_its_formula(perturb, x):
    net = perturb(FeedForward(12, 20), 1)
    with torch.no_grad():
        expected = (F.silu(x @ net.gate_proj.weight.T) * (x @ net.up_proj.weight.T)) @ net.down_proj.weight.T
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)


def test_rotary_table_values():
    cos, sin = rotary_table(3, 4, 100.0, device="cpu", dtype=torch.float32)
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.1], [2.0, 0.2]])
    angles = torch.cat([angles, angles], dim=-1)
    torch.testing.assert_close(cos, angles.cos(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(sin, angles.sin(), rtol=1e-6, atol=1e-7)


def test_rotary_table_from_a_start_and_from_positions():
    def table(**how):
        return torch.stack(rotary_table(how.pop("length", 9), 6, 1e6, device="cpu", dtype=torch.float32, **how))

    assert torch.equal(table(length=4, start=5), table()[:, 5:])
    assert torch.equal(table(positions=torch.tensor([2, 7])), table()[:, [2, 7]])
    assert torch.equal(table(positions=torch.tensor([[2, 7], [0, 1]])), table()[:, [[2, 7], [0, 1]]])


def test_rotating_turns_halves_and_keeps_lengths(rng):
    cos, sin = torch.tensor([[0.0, 1.0]]).repeat(1, 2), torch.tensor([[1.0, 0.0]]).repeat(1, 2)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    assert apply_rotary(x, cos, sin).flatten().tolist() == [-3.0, 2.0, 1.0, 4.0]
    x = torch.randn(2, 3, 5, 6, generator=rng(3))
    tables = rotary_table(5, 6, 1e4, device="cpu", dtype=torch.float32)
    torch.testing.assert_close(apply_rotary(x, *tables).norm(dim=-1), x.norm(dim=-1))
    batched = tuple(table.expand(2, 5, 6) for table in tables)
    assert torch.equal(apply_rotary(x, *batched), apply_rotary(x, *tables))


def test_sliding_mask_sees_the_window_on_both_sides():
    assert sliding_mask(4, 1, "cpu").int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert sliding_mask(129, 128, "cpu") is None
    mask = sliding_mask(130, 128, "cpu")
    assert int((~mask).sum()) == 2 and not mask[0, 129] and not mask[129, 0]


def test_parameter_is_zero_until_it_is_loaded():
    assert torch.equal(parameter(1, 2, 3), torch.zeros(1, 2, 3))
    assert parameter(2, device=META, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(head_dim=7), "must be even"),
        (dict(kv_heads=3), "3 key heads do not divide 4"),
        (dict(width=0), "at least 1"),
    ],
)
def test_a_shape_that_no_layer_can_have_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        LayerShape(**{**dict(width=12, heads=4, kv_heads=2, head_dim=6, hidden=20), **wrong})
