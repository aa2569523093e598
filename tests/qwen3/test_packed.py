"""Texts of different lengths in one pass against each of them alone, with plain and with fixed sizes."""

from __future__ import annotations

import pytest
import torch

from acestep_models.qwen3.cache import KVCache
from acestep_models.qwen3.model import Qwen3, Qwen3Config
from acestep_models.qwen3.packed import PackedCache, WindowCache

TINY = Qwen3Config(101, 48, 80, 3, 4, 2, head_dim=16, rope_theta=10_000.0)
LENGTHS = (7, 19, 12)


@pytest.fixture(scope="module")
def model(perturb):
    torch.manual_seed(0)
    return perturb(Qwen3(TINY), 1).requires_grad_(False)


@pytest.fixture(scope="module")
def ids(rng):
    return torch.randint(0, TINY.vocab_size, (3, 40), generator=rng(2))


def read(model, ids, lengths):
    """A cache for each text that has read its first tokens."""
    caches = []
    for row, length in zip(ids, lengths, strict=True):
        caches.append(KVCache(TINY, 1, 40))
        model(row[None, :length], cache=caches[-1])
    return caches


def line(ids, lengths, tokens):
    return torch.cat([row[at : at + count] for row, at, count in zip(ids, lengths, tokens, strict=True)])


@pytest.mark.parametrize("tokens", [(1, 1, 1), (5, 1, 3), (21, 2, 1)])
def test_packed_texts_equal_each_alone(model, ids, relative_error, tokens):
    caches = read(model, ids, LENGTHS)
    hidden = model.packed(model.embed(line(ids, LENGTHS, tokens)), PackedCache(caches, tokens))
    whole = [model(row[None])[0] for row in ids]
    expected = torch.cat([w[at : at + n] for w, at, n in zip(whole, LENGTHS, tokens, strict=True)])
    assert hidden.shape == expected.shape
    assert relative_error(hidden, expected) < 1e-5
    assert [cache.length for cache in caches] == [at + n for at, n in zip(LENGTHS, tokens, strict=True)]


def test_a_fresh_text_beside_a_long_one(model, ids, relative_error):
    caches = [KVCache(TINY, 1, 40), *read(model, ids[:1], [30])]
    hidden = model.packed(model.embed(torch.cat([ids[1, :9], ids[0, 30:33]])), PackedCache(caches, [9, 3]))
    assert relative_error(hidden[:9], model(ids[1:2, :9])[0]) < 1e-5
    assert relative_error(hidden[9:], model(ids[:1, :33])[0, 30:]) < 1e-5


def test_groups_of_texts_of_one_length(model, ids, relative_error):
    """Two texts in one cache, one in another: a step of three tokens."""
    pair, single = KVCache(TINY, 2, 30), KVCache(TINY, 1, 20)
    model(ids[:2, :25], cache=pair)
    model(ids[2:, :14], cache=single)
    step = torch.cat([ids[:2, 25], ids[2, 14:15]])
    hidden = model.packed(model.embed(step), PackedCache([pair, single], [1, 1]))
    assert relative_error(hidden[:2], model(ids[:2, :26])[:, -1]) < 1e-5
    assert relative_error(hidden[2], model(ids[2:, :15])[0, -1]) < 1e-5


@pytest.mark.parametrize("windows", [(40, 40), (32, 24)])
def test_fixed_sizes_equal_plain_ones(model, ids, relative_error, windows):
    """What lies behind a text's own position is hidden, even where memory holds no numbers."""
    pair, single = KVCache(TINY, 2, 40), KVCache(TINY, 1, 40)
    for cache, rows, length in ((pair, ids[:2], 25), (single, ids[2:], 14)):
        cache.keys.fill_(float("nan"))
        cache.values.fill_(float("nan"))
        model(rows[:, :length], cache=cache)
    positions = torch.tensor([25, 25, 14])
    texts = WindowCache([pair, single], windows, positions)
    for step in range(6):
        tokens = torch.cat([ids[:2, 25 + step], ids[2, 14 + step : 15 + step]])
        hidden = model.packed(model.embed(tokens), texts)
        assert relative_error(hidden[:2], model(ids[:2, : 26 + step])[:, -1]) < 1e-5
        assert relative_error(hidden[2], model(ids[2:, : 15 + step])[0, -1]) < 1e-5
    assert positions.tolist() == [31, 31, 20]


def test_rows_share_memory_and_copies_do_not(model, ids, relative_error):
    cache = KVCache(TINY, 3, 40)
    model(ids[:1, :20], cache=cache.row(1))
    assert cache.length == 0
    row = cache.row(1)
    row.length = 20
    cache.row(2).copy_from(row)
    cache.row(0).copy_from(row)
    cache.length = 20
    hidden = model(ids[:1, 20:22].expand(3, -1), cache=cache)
    for index in range(3):
        assert relative_error(hidden[index], model(ids[:1, :22])[0, 20:]) < 1e-5


def test_a_grown_cache_remembers(model, ids, relative_error):
    cache = KVCache(TINY, 1, 10)
    model(ids[:1, :10], cache=cache)
    with pytest.raises(ValueError, match="10 positions, 10 of them filled: 5 more do not fit"):
        PackedCache([cache], [5])
    cache.grow(15)
    assert cache.capacity == 15
    assert relative_error(model(ids[:1, 10:15], cache=cache), model(ids[:1, :15])[:, 10:]) < 1e-5
