"""The engine against plain transformers: no cache, no batch, the whole vocabulary, a full sort (tests/oracles)."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from acestep_models.planner.decode import CodesRequest, write_codes
from acestep_models.planner.engine import Engine
from acestep_models.planner.generate import write_text
from acestep_models.planner.memory import RunSize
from acestep_models.planner.sampling import TokenSampling
from acestep_models.qwen3.packed import PackedCache
from acestep_models.runtime import PlainRuntime

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "oracles")]

from plain_lm import logits_after, plain_codes, plain_model, plain_text  # noqa: E402
from small_lm import CODES, network, prompt, replaying, script, small_lm, tokenizer  # noqa: E402

FIRST = tokenizer().size - CODES
QUICK, ALL = range(0, 200, 20), range(200)
seeds = pytest.mark.parametrize("seeds", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["10", "200"])
recorded = pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])


@cache
def oracle():
    return plain_model(network().config, network().state_dict())


def planner(recorded):
    return small_lm(replaying([]) if recorded else None)


@cache
def expected_codes(seed, guided):
    """Song `seed`: a prompt of its own length, a short negative prompt, 12 codes."""
    with torch.no_grad():
        return plain_codes(
            oracle(), song(seed), prompt(999, 9) if guided else None, 12, seed, (FIRST, CODES), guidance=2.0
        )


def song(seed):
    return prompt(seed, 20 + seed % 7)


@recorded
@seeds
@pytest.mark.parametrize("guided", [False, True], ids=["unguided", "guided"])
def test_codes_are_those_of_a_plain_loop(seeds, guided, recorded):
    """Alone, and in batches of eight with prompts of other lengths."""
    lm, negative = planner(recorded), prompt(999, 9) if guided else None
    for start in range(0, len(seeds), 8):
        batch = tuple(seeds[start : start + 8])
        found = write_codes(PlainRuntime(), lm, CodesRequest(tuple(map(song, batch)), negative, 12, batch))
        assert found == [expected_codes(seed, guided) for seed in batch]
    for seed in list(seeds)[::5]:
        alone = CodesRequest((song(seed),), negative, 12, (seed,))
        assert write_codes(PlainRuntime(), lm, alone) == [expected_codes(seed, guided)]


@recorded
@seeds
def test_text_is_that_of_a_plain_loop(seeds, recorded):
    """Runs of forced ids, choices of few ids, free text: alone, and eight ragged songs at once."""
    lm = planner(recorded)
    for batch in ([seed] for seed in list(seeds)[::5]):
        assert text(lm, batch) == list(map(expected_text, batch))
    for start in range(0, len(seeds), 8):
        batch = list(seeds)[start : start + 8]
        assert text(lm, batch) == list(map(expected_text, batch))


@cache
def expected_text(seed):
    with torch.no_grad():
        return plain_text(oracle(), song(seed), script(seed, 30, FIRST).allowed, seed, 26)


def text(lm, batch):
    writers = [script(seed, 30, FIRST) for seed in batch]
    return write_text(PlainRuntime(), lm, [song(seed) for seed in batch], writers, batch, TokenSampling(), 26)


@torch.no_grad()
def test_logits_after_prompt_and_steps(relative_error):
    """Of every row of the vocabulary, for two songs and a negative prompt in one pass."""
    texts = [list(prompt(1, 700)), list(prompt(2, 41)), list(prompt(3, 9))]
    engine = Engine(PlainRuntime(), small_lm(), RunSize([(3, 800)], 700, CODES))
    caches = engine.read_groups([[tuple(ids)] for ids in texts], 20)
    head = engine.head(0, network().config.vocab_size)
    for _ in range(4):
        hidden = engine.packed(engine.ids([ids[-1] for ids in texts]), PackedCache(caches, [1, 1, 1]))
        for row, ids in zip(hidden @ head.T, texts, strict=True):
            wanted = logits_after(oracle(), ids)
            assert relative_error(row, wanted) < 1e-5
            ids.append(int(wanted.argmax()))


@pytest.mark.parametrize(
    "sampling", [TokenSampling(0.0), TokenSampling(1.2, 1.0), TokenSampling(top_k=7, min_p=0.02)], ids=str
)
def test_every_sampling(sampling):
    from dataclasses import asdict

    batch = (1, 2, 3)
    request = CodesRequest(tuple(map(song, batch)), prompt(999, 9), 12, batch, 3.0, sampling)
    with torch.no_grad():
        expected = [
            plain_codes(oracle(), song(s), prompt(999, 9), 12, s, (FIRST, CODES), 3.0, **asdict(sampling))
            for s in batch
        ]
    assert write_codes(PlainRuntime(), small_lm(), request) == expected
