"""What is computed once a song, and found again."""

from __future__ import annotations

import weakref

import pytest
import torch

from acestep_models.dit.told import ToldStore
from acestep_models.dit.transformer import DiT

LENGTH = 7


@pytest.fixture
def net(tiny_2b, perturb):
    return perturb(DiT(tiny_2b), 11)


@pytest.fixture
def given(tiny_2b, rng):
    """x, context, tokens, t of three rows, and a mask."""
    generator = rng(3)
    C, E = tiny_2b.audio_acoustic_hidden_dim, tiny_2b.encoder_hidden_size
    sizes = (25, C), (25, 2 * C), (LENGTH, E)
    tensors = [torch.randn(3, *size, generator=generator) for size in sizes]
    return [*tensors, torch.linspace(0.9, 0.2, 3)], torch.arange(LENGTH) < torch.tensor([7, 4, 5])[:, None]


def count_calls(net):
    """A list that grows by one with every key projection of attention to the condition."""
    calls = []
    for layer in net.layers:
        layer.cross_attn.k_proj.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_told_is_the_same_to_the_bit(net, given, relative_error, masked):
    (x, context, tokens, t), mask = given
    mask = mask if masked else None
    with torch.no_grad():
        plain = net(x, context, tokens, t, token_mask=mask)
        told = net.tell(tokens, 25, mask)
        calls = count_calls(net)
        assert torch.equal(net(x, context, told, t), plain)
        part = net(x[1:], context[1:], told.rows(1, 3), t[1:])
        assert relative_error(part, plain[1:]) < 1e-5
    assert calls == []


def test_a_store_finds_by_content(net, given):
    (_, _, tokens, _), mask = given
    store, calls = ToldStore(), count_calls(net)
    depth = len(net.layers)

    def find(tokens, mask=None, frames=25):
        with torch.no_grad():
            found = store.find(lambda new, hidden: net.tell(new, frames, hidden), tokens, mask, frames)
        return found, len(calls) // depth

    whole, count = find(tokens)
    assert count == 1 and find(tokens.clone()) == (whole, 1)
    for part in (slice(0, 2), slice(1, 3)):  # the first rows, or the last ones
        found, count = find(tokens[part])
        assert count == 1
        assert torch.equal(found.keys_values[1][0], whole.keys_values[1][0][part])
    assert find(tokens.flip(0))[1] == 2  # another order is another set
    assert find(tokens.flip(0), mask)[1] == 3
    assert find(tokens.flip(0), ~mask)[1] == 4
    assert find(tokens.flip(0), ~mask, frames=27)[1] == 5
    assert find(tokens.flip(0).double().float(), ~mask, 27)[1] == 5
    assert find(torch.cat([tokens, tokens]))[1] == 6
    store.forget()
    assert find(torch.cat([tokens, tokens]))[1] == 7


def test_a_song_and_its_null_asked_for_in_turn_are_each_computed_once(net, given):
    (_, _, tokens, _), _ = given
    store, calls = ToldStore(), count_calls(net)
    for _ in range(5):
        for one in (tokens[:1], tokens[1:2]):
            with torch.no_grad():
                store.find(lambda new, hidden: net.tell(new, 25, hidden), one, None, 25)
    assert len(calls) == 2 * len(net.layers)


def test_the_older_of_two_is_gone_before_a_third_is_made(net, given):
    (_, _, tokens, _), _ = given
    store, seen = ToldStore(), []

    def tell(new, hidden):
        seen.append([ref() is not None for ref in made])
        told = net.tell(new, 25, hidden)
        made.append(weakref.ref(told))
        return told

    made = []
    with torch.no_grad():
        for row in range(3):
            store.find(tell, tokens[row : row + 1], None, 25)
    assert seen == [[], [True], [False, True]]
