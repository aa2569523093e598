"""Sampling against the plain formula in float64 with a full sort."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep_models.planner.sampling import TokenSampling, generator, pick, uniforms

sys.path.append(str(Path(__file__).resolve().parents[1] / "oracles"))

from plain_lm import draw  # noqa: E402

SAMPLINGS = [
    TokenSampling(),
    TokenSampling(temperature=1.0, top_p=1.0),
    TokenSampling(temperature=0.3, top_p=0.5),
    TokenSampling(top_k=5),
    TokenSampling(top_k=40, top_p=0.7, min_p=0.05),
    TokenSampling(temperature=2.0, top_p=0.0),
    TokenSampling(temperature=0.0),
]


def name(sampling):
    return "-".join(f"{value:g}" for value in asdict(sampling).values())


def plainly(logits, numbers, sampling):
    rows = zip(logits, numbers.tolist(), strict=True)
    return [draw(row, number, **asdict(sampling)) for row, number in rows]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=name)
def test_is_the_plain_formula(sampling, rng):
    source = rng(1)
    logits = 4 * torch.randn(200, 97, generator=source)
    numbers = torch.rand(200, generator=source)
    assert pick(logits, numbers, sampling).tolist() == plainly(logits, numbers, sampling)


@pytest.mark.parametrize("sampling", SAMPLINGS[:5], ids=name)
def test_many_equal_logits_stay_or_go_together(sampling, rng):
    """A network in bf16 gives the same number to many tokens; which of them a sort puts first must not matter."""
    source = rng(2)
    logits = torch.randn(60, 1000, generator=source).mul(2).round().div(2)
    logits[::2] = logits[::2].bfloat16().float()
    logits[:, 500:] = -torch.inf
    numbers = torch.rand(60, generator=source)
    assert pick(logits, numbers, sampling).tolist() == plainly(logits, numbers, sampling)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 30.0])
def test_all_codes_at_once(spread, rng):
    source = rng(3)
    logits = spread * torch.randn(4, 64_000, generator=source)
    numbers = torch.tensor([0.0, 0.3, 0.999, 1 - 2.0**-24])
    assert pick(logits, numbers, TokenSampling()).tolist() == plainly(logits, numbers, TokenSampling())


def test_a_row_is_the_same_alone_and_in_a_batch(rng):
    logits, numbers = 2 * torch.randn(8, 64_001, generator=rng(4)), torch.rand(8, generator=rng(5))
    together = pick(logits, numbers, TokenSampling())
    assert torch.equal(
        together, torch.cat([pick(logits[i : i + 1], numbers[i : i + 1], TokenSampling()) for i in range(8)])
    )


def test_a_batch_is_computed_as_its_rows_are(rng, monkeypatch):
    """Elsewhere than on the CPU all rows go through together."""
    from acestep_models.planner import sampling

    logits, numbers = 2 * torch.randn(8, 5000, generator=rng(6)), torch.rand(8, generator=rng(7))
    for chosen in SAMPLINGS[:6]:
        assert torch.equal(sampling._draw(logits, numbers, chosen), pick(logits, numbers, chosen))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(-50, 50, width=16), min_size=1, max_size=40),
    st.floats(0, 1 - 2.0**-24, width=32),
    st.sampled_from([0.05, 0.85, 2.0]),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.2, 1.0]),
)
def test_what_is_drawn_was_kept(logits, number, temperature, top_p, top_k, min_p):
    sampling = TokenSampling(temperature, top_p, top_k, min_p)
    row = torch.tensor([[*logits, -torch.inf]])
    index = int(pick(row, torch.tensor([number]), sampling))
    assert index < len(logits)
    likelier = [value for value in logits if value > logits[index]]
    probabilities = torch.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, 0)
    assert not top_k or len(likelier) < top_k
    assert probabilities[index] >= 0.999 * min_p * probabilities.max()
    if not (top_k or min_p or top_p == 1):
        above = sum(p for p, value in zip(probabilities.tolist(), logits, strict=True) if value > logits[index])
        assert above <= top_p + 1e-9


def test_frequencies_are_probabilities(rng):
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5]).repeat(5_000, 1)
    picked = pick(logits, torch.rand(5_000, generator=rng(8)), TokenSampling(temperature=0.7, top_p=1.0))
    share = torch.bincount(picked, minlength=4) / 5_000
    torch.testing.assert_close(share, torch.softmax(logits[0] / 0.7, 0), rtol=0, atol=0.03)


def test_uniform_numbers_are_the_songs_own():
    together = uniforms([3, 2**64 + 4, -1], 50)
    assert together.shape == (50, 3)
    for column, seed in enumerate([3, 4, 2**64 - 1]):
        one_by_one = torch.cat([torch.rand(1, generator=source) for source in [generator(seed)] for _ in range(50)])
        assert torch.equal(together[:, column], one_by_one)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -0.1}, "temperature must be between 0 and 2, got -0.1"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1, got 1.5"),
        ({"min_p": float("nan")}, "min_p must be between 0 and 1, got nan"),
        ({"top_k": -1}, r"top_k must be 0 \(off\) or a number of tokens, got -1"),
    ],
)
def test_numbers_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        TokenSampling(**wrong)
