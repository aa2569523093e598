"""What the host is asked for, against published sizes and against what a run really takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep_models.planner.decode import CodesRequest, write_codes
from acestep_models.planner.generate import text_size
from acestep_models.planner.lm import LM, advice
from acestep_models.planner.memory import RunSize, cache_bytes, run_bytes
from acestep_models.qwen3.cache import KVCache
from acestep_models.qwen3.model import LM_06B, LM_4B, LM_17B, Qwen3
from acestep_models.runtime import Handle, PlainRuntime

sys.path.append(str(Path(__file__).resolve().parent))

from small_lm import network, prompt, small_lm, tokenizer  # noqa: E402

BF16, FP32 = torch.bfloat16, torch.float32
GIB = 2**30


@pytest.mark.parametrize(("config", "kib"), [(LM_06B, 112), (LM_17B, 112), (LM_4B, 144)], ids=["0.6B", "1.7B", "4B"])
def test_published_cache_sizes(config, kib):
    """spec/planner.md §7.1."""
    assert cache_bytes(config, 1, 1, BF16) == kib * 1024
    assert cache_bytes(config, 16, 3600, BF16) / GIB == pytest.approx({112: 6.15, 144: 7.91}[kib], abs=0.005)
    cache = KVCache(config, 2, 3, "meta", BF16)
    assert cache.keys.nbytes + cache.values.nbytes == cache_bytes(config, 2, 3, BF16)


@pytest.mark.parametrize(
    ("config", "weights"), [(LM_06B, 1_325_768_704), (LM_17B, 3_708_487_680), (LM_4B, 8_379_108_352)]
)
@pytest.mark.parametrize("songs", [1, 8])
def test_ten_minutes_take_weights_and_cache(config, weights, songs):
    """Everything beside them stays below a twentieth."""
    request = CodesRequest(((1,) * 600,) * songs, (1,) * 33, 3000, tuple(range(songs)))
    caches = cache_bytes(config, songs, 3600, BF16) + cache_bytes(config, songs, 3033, BF16)
    assert caches < run_bytes(config, request.size, BF16)
    assert weights + run_bytes(config, request.size, BF16) < 1.05 * (weights + caches)


class Asked(PlainRuntime):
    """Remembers what it was asked for."""

    reserved = 0

    def place(self, handle, reserve_bytes=0):
        self.reserved = reserve_bytes
        return super().place(handle, reserve_bytes)


@pytest.mark.parametrize(("length", "codes", "songs"), [(700, 2, 1), (30, 6, 4)])
def test_a_run_stays_within_what_it_asked_for(length, codes, songs, monkeypatch):
    config = replace(network().config, hidden_size=256, intermediate_size=768, head_dim=32)
    lm = LM(Handle(Qwen3(config).eval().requires_grad_(False), FP32), tokenizer(), "wide")
    lm.vocabulary  # noqa: B018
    runtime = Asked()
    request = CodesRequest((prompt(1, length),) * songs, prompt(2, 9), codes, tuple(range(songs)))
    write_codes(runtime, lm, request)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        write_codes(runtime, lm, request)
    peak = live = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 0 < peak <= runtime.reserved


def test_text_is_given_the_room_that_texts_take():
    size = text_size([(1,) * 100, (1,) * 300], 4608, 151_669)
    assert size == RunSize([(1, 2148), (1, 2348)], 300, 151_669)
    assert text_size([(1,) * 100], 50, 9).branches == [(1, 150)]


def test_advice_only_where_weights_are_missing():
    runtime = PlainRuntime()
    assert advice(runtime, small_lm()) == ""
    runtime.loaded_share = lambda handle: 0.42
    words = advice(runtime, small_lm())
    assert words.startswith("small: only 42% of the language model fits on cpu")
    assert "seconds a token" not in words
    for choice in ("smaller language model", "shorter song", "fewer songs"):
        assert choice in words


@pytest.mark.parametrize(
    ("config", "dtype", "share", "told"),
    [
        (LM_4B, BF16, 0.2, ("only 20%", "about 6.7 GB", "at least about 0.56 s a token")),
        (LM_4B, BF16, 0.99, ("only 99%", "about 0.084 GB", "at least about 0.0070 s a token")),
        (LM_4B, BF16, 0.999, ("only 99%", "about 0.0084 GB", "at least about 0.00070 s a token")),
        (LM_06B, FP32, 0.0, ("only 0%", "about 2.7 GB", "at least about 0.22 s a token")),
    ],
)
def test_advice_says_how_much_is_copied_and_how_long_that_takes(config, dtype, share, told):
    """(1 - share) of the weights a token, at 12 GB/s."""
    with torch.device("meta"):
        lm = LM(Handle(Qwen3(config).to(dtype), dtype), tokenizer(), "big")
    runtime = PlainRuntime()
    runtime.loaded_share = lambda handle: share
    words = advice(runtime, lm)
    assert all(part in words for part in told), words
