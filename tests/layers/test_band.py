"""The band of the sliding layers in blocks, against the mask of all pairs."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acestep_models.dit.config import DiTConfig
from acestep_models.dit.encoder import Encoder
from acestep_models.dit.transformer import DiT
from acestep_models.layers import band_elements, count_blocks, sliding_band, sliding_mask
from acestep_models.ops import attention

WINDOW = 5
# around every border: the window, two and three of them, and lengths that are no multiple
LENGTHS = (6, 7, 10, 11, 14, 15, 16, 17, 19, 20, 21, 25, 38)


def heads_of(length, batch=2, heads=4, keys=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(length)
    # as the projections leave them: [B, L, heads, D] seen from the side
    return [
        torch.randn(batch, length, count, 8, generator=generator).to(dtype).transpose(1, 2).requires_grad_()
        for count in (heads, keys, keys)
    ]


def both_ways(q, k, v, window=WINDOW):
    length, groups = q.shape[2], q.shape[1] // k.shape[1]
    dense = attention(q, k, v, sliding_mask(length, window, "cpu"))
    band = sliding_band(length, window, groups, q)
    return dense, attention(q, k, v) if band is None else band.attend(q, k, v, attention)


@pytest.mark.parametrize(("heads", "keys"), [(4, 2), (4, 4), (4, 1)], ids=["grouped", "plain", "one key head"])
@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_are_the_mask(length, heads, keys, relative_error):
    with torch.no_grad():
        dense, banded = both_ways(*heads_of(length, heads=heads, keys=keys))
    assert banded.shape == dense.shape
    assert relative_error(banded, dense) < 1e-6


@pytest.mark.parametrize("length", [11, 16, 38])
def test_gradients_are_those_of_the_mask(length, relative_error):
    given = heads_of(length)
    weights = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(1))
    dense, banded = ((out * weights).sum() for out in both_ways(*given))
    expected = torch.autograd.grad(dense, given)
    found = torch.autograd.grad(banded, given)
    assert max(relative_error(got, true) for got, true in zip(found, expected, strict=True)) < 1e-6


def test_only_the_window_is_seen():
    q, k, v = (given.detach() for given in heads_of(38))
    _, before = both_ways(q, k, v)
    v[:, :, 20] += 1e6
    _, after = both_ways(q, k, v)
    near = (torch.arange(38) - 20).abs() <= WINDOW
    assert torch.equal(after[:, :, ~near], before[:, :, ~near])
    assert (after[:, :, near] != before[:, :, near]).all()


def test_half_precision_is_as_near_as_the_mask(relative_error):
    with torch.no_grad():
        exact, _ = both_ways(*heads_of(38))
        ways = both_ways(*heads_of(38, dtype=torch.bfloat16))
    for way in ways:
        assert relative_error(way, exact) < 2e-2


def test_a_short_sequence_is_one_block_and_a_shorter_one_none():
    assert [count_blocks(length, 128) for length in (129, 130, 384, 385, 512, 513, 7500)] == [0, 1, 1, 4, 4, 5, 59]
    assert sliding_band(129, 128, 2, torch.empty(0)) is None
    for length in (129, 200, 384, 385, 1000):
        band = sliding_band(length, 128, 2, torch.empty(0))
        assert band_elements(length, 128, 2) == (0 if band is None else band.numbers.numel())


class Largest(TorchDispatchMode):
    """The most elements of a tensor that an operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = (leaf.untyped_storage().nbytes() // leaf.itemsize for leaf in tree_leaves(out) if torch.is_tensor(leaf))
        self.elements = max(self.elements, *sizes, 0)
        return out


NARROW = DiTConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    intermediate_size=32,
    encoder_hidden_size=16,
    encoder_intermediate_size=32,
    encoder_num_attention_heads=2,
    encoder_num_key_value_heads=1,
    fsq_dim=16,
)


@pytest.mark.parametrize("seconds", [120, pytest.param(600, marks=pytest.mark.slow)])
def test_no_tensor_grows_with_the_square_of_a_song(seconds):
    """At 600 s a mask of all pairs would have 56 million elements."""
    frames = 25 * seconds
    net, patches = DiT(NARROW), frames // 2
    given = torch.randn(1, frames, 64), torch.randn(1, frames, 128), torch.randn(1, 20, 16), torch.rand(1)
    with torch.no_grad(), Largest() as largest:
        net(*given)
    assert largest.elements == max(frames * 192, band_elements(patches, 128, 2)) < patches**2


def test_no_tensor_grows_with_the_square_of_the_lyrics():
    net = Encoder(NARROW, 16, 2)
    with torch.no_grad(), Largest() as largest:
        net(torch.randn(1, 4000, 16))
    assert largest.elements == band_elements(4000, 128, 2) < 4000**2 // 4
