"""Which deltas a decoder takes, and which part of them is chosen."""

from __future__ import annotations

import pytest
import torch

from acestep_models.adapters.adapter import Adapter, AdapterFacts, Skipped
from acestep_models.adapters.delta import LowRank
from acestep_models.adapters.match import match
from acestep_models.adapters.select import Choice, parse_layers, select

QUERY, GATE, LAST = "layers.0.self_attn.q_proj", "layers.1.mlp.gate_proj", "layers.31.cross_attn.o_proj"


def low_rank(out, size):
    return LowRank(torch.zeros(1, size), torch.zeros(out, 1))


def adapter(width=2048, **deltas):
    return Adapter(deltas, AdapterFacts("made here", width=width))


def shapes(width):
    return {QUERY: (width, width), GATE: (3 * width, width), "proj_in.1": (width, 192, 2)}


def test_what_fits_is_kept_and_the_rest_has_its_reason():
    given = adapter(
        **{QUERY: low_rank(2048, 2048), "proj_in.1": low_rank(2048, 384), GATE: low_rank(2048, 6144)},
        **{LAST: low_rank(8, 8)},
    )
    found = match(given, shapes(2048))
    assert list(found.deltas) == [QUERY, "proj_in.1"]
    assert found.deltas[QUERY] is given.deltas[QUERY]
    assert found.unmatched == (
        Skipped(GATE, "made for a weight of [2048, 6144], this decoder's has [6144, 2048]"),
        Skipped(LAST, "this decoder has no such module"),
    )


@pytest.mark.parametrize(
    ("trained", "loaded", "message"),
    [
        (2560, 2048, r"trained for XL \(2560\), this decoder is 2B \(2048\): none of its 2 modules fits"),
        (2048, 2560, r"trained for 2B \(2048\), this decoder is XL \(2560\)"),
        (64, 2048, r"trained for width 64, this decoder is 2B \(2048\)"),
    ],
)
def test_the_wrong_size_is_named(trained, loaded, message):
    given = adapter(trained, **{QUERY: low_rank(trained, trained), LAST: low_rank(trained, trained)})
    with pytest.raises(ValueError, match=message):
        match(given, shapes(loaded))


def test_no_match_of_the_right_size_says_why():
    names = {f"layers.{index}.mlp.other": low_rank(8, 8) for index in range(5)}
    with pytest.raises(ValueError, match=r"5 modules.*layers.0.mlp.other: this decoder has no such module.*and 2 more"):
        match(adapter(2048, **names), shapes(2048))


def strengths(choice, *names):
    chosen = select({name: LowRank(torch.ones(1, 1), torch.ones(1, 1), 2.0) for name in names}, choice)
    return {name: delta.scale for name, delta in chosen.items()}


def test_each_group_has_its_factor_and_zero_leaves_out():
    cross, other, norm = "layers.0.cross_attn.k_proj", "condition_embedder", "layers.0.self_attn_norm"
    names = (QUERY, cross, GATE, other, norm)
    assert strengths(Choice(), *names) == dict.fromkeys(names, 2.0)
    choice = Choice(self_attention=0.5, cross_attention=0.0, mlp=-1.0, other=2.0)
    assert strengths(choice, *names) == {QUERY: 1.0, GATE: -2.0, other: 4.0, norm: 1.0}


def test_layers_are_chosen_and_what_stands_outside_them_stays():
    names = [f"layers.{index}.mlp.up_proj" for index in (0, 1, 2, 10, 11)] + ["time_embed.linear_1"]
    assert list(strengths(Choice(layers=parse_layers("1-10")), *names)) == [*names[1:4], names[5]]
    assert list(strengths(Choice(layers=parse_layers("0-1, 11")), *names)) == [*names[:2], *names[4:]]


@pytest.mark.parametrize(
    ("text", "layers"),
    [("", None), (" , ", None), ("999", {999}), ("3", {3}), ("0-2, 20", {0, 1, 2, 20}), (" 5 - 5,1,", {1, 5})],
)
def test_layers_are_read(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", "1.5", "0-2-4", "1000", "0-1000", "0-99999999999"])
def test_what_is_no_layer_is_an_error(text):
    with pytest.raises(ValueError, match="write numbers from 0"):
        parse_layers(text)
