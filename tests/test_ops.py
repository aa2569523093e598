"""Attention against its definition, with grouped queries by every road."""

import math

import pytest
import torch

from acestep_models import ops


def plain_attention(q, k, v, mask=None):
    """Softmax attention written out; each key head serves consecutive query heads."""
    groups = q.shape[1] // k.shape[1]
    k, v = (torch.stack([t] * groups, dim=2).flatten(1, 2) for t in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


@pytest.fixture
def heads(rng):
    def draw(query_heads, key_heads, length=9):
        generator = rng(0)
        q = torch.randn(2, query_heads, length, 16, generator=generator)
        return q, *(torch.randn(2, key_heads, length, 16, generator=generator) for _ in range(2))

    return draw


@pytest.mark.parametrize(("query_heads", "key_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("kind", ["none", "mask", "causal"])
def test_attention_is_its_definition(heads, query_heads, key_heads, kind):
    q, k, v = heads(query_heads, key_heads)
    seen = {"none": None, "mask": torch.rand(9, 9) > 0.3, "causal": torch.ones(9, 9).tril().bool()}[kind]
    if kind == "mask":
        seen |= torch.eye(9, dtype=torch.bool)
    got = ops.attention(q, k, v, seen if kind == "mask" else None, causal=kind == "causal")
    torch.testing.assert_close(got, plain_attention(q, k, v, seen), rtol=0, atol=1e-5)


@pytest.mark.parametrize("has_gqa", [True, False])
def test_half_precision_takes_the_grouped_road_where_torch_has_one(heads, monkeypatch, has_gqa):
    monkeypatch.setattr(ops, "_HAS_GQA", has_gqa and ops._HAS_GQA)
    q, k, v = (t.bfloat16() for t in heads(4, 2))
    expected = plain_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(ops.attention(q, k, v).float(), expected, rtol=0, atol=2e-2)


def test_padded_keys_change_nothing(heads):
    q, k, v = heads(4, 2)
    mask = torch.arange(9)[None, None, None] < 6
    noise = [torch.cat([t[:, :, :6], 100 * torch.ones(2, 2, 3, 16)], dim=2) for t in (k, v)]
    torch.testing.assert_close(ops.attention(q, *noise, mask), ops.attention(q, k[:, :, :6], v[:, :, :6]))


@pytest.mark.parametrize(("query_heads", "key_heads"), [(4, 2), (6, 1), (8, 4)])
@pytest.mark.parametrize("shape", [None, (1, 1, 1, 9), (2, 1, 1, 9), (2, 0, 1, 9), (1, 9), (1, 0, 1, 9)])
def test_one_query_is_its_definition(heads, rng, query_heads, key_heads, shape):
    """A step of the planner: the query heads of a key head are rows; a 0 in the shape stands for all query heads."""
    q, k, v = heads(query_heads, key_heads)
    q, mask = q[:, :, 4:5], None
    if shape is not None:
        mask = torch.rand([size or query_heads for size in shape], generator=rng(1)) > 0.4
        mask[..., 3] = True
    torch.testing.assert_close(ops.attention(q, k, v, mask), plain_attention(q, k, v, mask), rtol=0, atol=1e-6)
    half = ops.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    torch.testing.assert_close(half.float(), plain_attention(q, k, v, mask), rtol=0, atol=3e-2)


def test_one_query_copies_no_key(heads, monkeypatch):
    q, k, v = heads(4, 2)
    monkeypatch.setattr(torch.Tensor, "repeat_interleave", None)
    assert ops.attention(q[:, :, :1], k, v, torch.ones(1, 9, dtype=torch.bool)).shape == (2, 4, 1, 16)


def test_rows_of_an_embedding_are_a_view_where_nothing_must_change():
    table = torch.nn.Embedding(10, 4)
    head = ops.rows(table, 3, 7, torch.zeros(0))
    assert torch.equal(head, table.weight[3:7])
    assert head.data_ptr() == table.weight[3:].data_ptr()
    cast = ops.rows(table, 3, 7, torch.zeros(0, dtype=torch.bfloat16))
    assert torch.equal(cast, table.weight[3:7].bfloat16())


def test_weights_lie_still_where_they_are_computed_with():
    assert ops.lies_still(torch.nn.Linear(2, 2), torch.zeros(0))
    assert not ops.lies_still(torch.nn.Linear(2, 2), torch.zeros(0, device="meta"))


def test_cast_follows_what_it_meets():
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    assert ops.cast(parameter, torch.zeros(1)).dtype == torch.float32
