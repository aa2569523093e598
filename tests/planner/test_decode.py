"""The codes phase: what is shared, what is counted, where it ends, how it is stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.ops import Ops
from acestep_models.planner import decode, static
from acestep_models.planner.decode import CodesRequest, write_codes
from acestep_models.planner.lm import LM
from acestep_models.planner.sampling import TokenSampling
from acestep_models.qwen3.model import Qwen3
from acestep_models.runtime import Handle, PlainRuntime

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "oracles")]

from plain_lm import draw, logits_after, plain_model  # noqa: E402
from small_lm import CODES, network, prompt, replaying, small_lm, tokenizer  # noqa: E402

NEGATIVE = prompt(999, 9)


@pytest.fixture
def passes(monkeypatch):
    """What the network was given: (batch, tokens) of each pass over a prompt, tokens of each packed pass."""
    seen = {"prompts": [], "steps": []}
    whole, packed = Qwen3.forward, Qwen3.packed

    def forward(self, tokens, **others):
        seen["prompts"].append(tuple(tokens.shape[:2]))
        return whole(self, tokens, **others)

    def step(self, tokens, texts):
        seen["steps"].append(len(tokens))
        return packed(self, tokens, texts)

    monkeypatch.setattr(Qwen3, "forward", forward)
    monkeypatch.setattr(Qwen3, "packed", step)
    return seen


@pytest.mark.parametrize(("guidance", "negative", "rows"), [(2.0, NEGATIVE, 6), (1.0, NEGATIVE, 3), (2.0, None, 3)])
def test_equal_prompts_are_read_once_and_no_guidance_means_no_second_branch(passes, guidance, negative, rows):
    write_codes(PlainRuntime(), small_lm(), CodesRequest((prompt(1, 20),) * 3, negative, 7, (1, 2, 3), guidance))
    assert passes["prompts"] == ([(1, 19), (1, 8)] if rows == 6 else [(1, 19)])
    assert passes["steps"] == [rows] * 7


def test_guidance_one_is_the_prompt_alone():
    songs = [
        write_codes(PlainRuntime(), small_lm(), CodesRequest((prompt(1, 20),), negative, 9, (4,), guidance))
        for guidance, negative in ((1.0, NEGATIVE), (1.0, None), (2.0, None), (2.0, NEGATIVE))
    ]
    assert songs[0] == songs[1] == songs[2] != songs[3]


def test_a_negative_prompt_a_song():
    both = CodesRequest((prompt(1, 20), prompt(2, 31)), (prompt(8, 12), prompt(9, 5)), 9, (4, 5))
    together = write_codes(PlainRuntime(), small_lm(), both)
    for index in range(2):
        alone = CodesRequest(both.prompts[index : index + 1], both.negative[index], 9, both.seeds[index : index + 1])
        assert write_codes(PlainRuntime(), small_lm(), alone) == together[index : index + 1]


def test_long_prompts_are_read_in_pieces(passes, monkeypatch):
    request = CodesRequest((prompt(1, 1100),), None, 5, (4,))
    pieces = write_codes(PlainRuntime(), small_lm(), request)
    assert passes["prompts"] == [(1, 512), (1, 512), (1, 75)]
    monkeypatch.setattr("acestep_models.planner.engine.CHUNK", 4096)
    assert write_codes(PlainRuntime(), small_lm(), request) == pieces


def test_steps_of_fixed_sizes_give_the_same_codes(monkeypatch):
    """Windows of 16 positions, so that a song crosses several; each is recorded once."""
    monkeypatch.setattr(static, "WINDOW", 16)
    request = CodesRequest((prompt(1, 20), prompt(2, 33)), NEGATIVE, 40, (4, 5))
    recorded = []
    assert write_codes(PlainRuntime(), small_lm(replaying(recorded)), request) == write_codes(
        PlainRuntime(), small_lm(), request
    )
    assert 3 <= len(recorded) <= 9


def test_a_step_that_cannot_be_recorded_is_done_plainly(caplog):
    request, tries = CodesRequest((prompt(1, 20),), NEGATIVE, 12, (4,)), []

    def fail(step):
        tries.append(step)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = replaying([])
    graphs.record = fail
    lm = small_lm(graphs)
    expected = write_codes(PlainRuntime(), small_lm(), request)
    assert write_codes(PlainRuntime(), lm, request) == expected
    assert write_codes(PlainRuntime(), lm, request) == expected
    assert len(tries) == 1, "a failed recording is not tried again"
    assert "not permitted" in graphs.failed
    assert "could not be recorded as a CUDA graph" in caplog.text


@pytest.mark.parametrize("how", ["streamed", "patched"])
def test_nothing_is_recorded_while_weights_move(how):
    recorded = []
    lm = small_lm(replaying(recorded))
    runtime = PlainRuntime()
    if how == "streamed":
        runtime.loaded_share = lambda handle: 0.7
    else:
        network_ = Qwen3(network().config, Ops(lies_still=lambda module, like: False))
        network_.load_state_dict(network().state_dict())
        lm = LM(Handle(network_, torch.float32), tokenizer(), "patched", replaying(recorded))
    request = CodesRequest((prompt(1, 20),), NEGATIVE, 6, (4,))
    assert write_codes(runtime, lm, request) == write_codes(PlainRuntime(), small_lm(), request)
    assert recorded == []


def test_progress_words_and_cancel():
    runtime, pairs = PlainRuntime(), []
    runtime.progress = lambda done, total: pairs.append((done, total))
    request = CodesRequest((prompt(1, 20),), NEGATIVE, 10, (4,))
    write_codes(runtime, small_lm(), request)
    assert pairs == [(number, 10) for number in range(1, 11)] + [(10, 10)]
    assert runtime.last_words.startswith("codes 10 of 10, ")

    def press(done, total):
        runtime.cancel = done == 4
        pairs.append((done, total))

    pairs.clear()
    runtime.progress = press
    with pytest.raises(Cancelled):
        write_codes(runtime, small_lm(), request)
    assert pairs[-1] == (4, 10)
    runtime.cancel = True
    with pytest.raises(Cancelled):
        write_codes(runtime, small_lm(), request)
    assert pairs[-1] == (4, 10), "cancelled while reading the prompt"


def natural(seed, codes):
    """Song `seed` by a plain loop that may end from four fifths on; the end stands before the codes."""
    model, words = plain_model(network().config, network().state_dict()), small_lm().vocabulary
    first, end = words.code_base, words.im_end
    source, ids, written = torch.Generator().manual_seed(seed), list(prompt(seed, 20)), []
    for number in range(codes):
        logits = logits_after(model, ids)
        masked = torch.full_like(logits, -torch.inf)
        masked[first : first + CODES] = logits[first : first + CODES]
        if number >= 0.8 * codes:
            masked[end] = logits[end]
        token = draw(masked, torch.rand(1, generator=source).item(), temperature=1.5, top_p=1.0)
        if token == end:
            break
        ids.append(token)
        written.append(token - first)
    return tuple(written)


@torch.no_grad()
def test_natural_end(monkeypatch):
    monkeypatch.setattr(decode, "LOOK_EVERY", 4)
    batch = (16, 18, 37, 73)
    prompts = tuple(prompt(seed, 20) for seed in batch)
    sampling, runtime = TokenSampling(1.5, 1.0), PlainRuntime()
    request = CodesRequest(prompts, None, 20, batch, 1.0, sampling, natural_end=True)
    songs = write_codes(runtime, small_lm(), request)
    assert songs == [natural(seed, 20) for seed in batch]
    assert list(map(len, songs)) == [16, 20, 17, 19]
    assert runtime.last_progress == (20, 20)


def test_a_natural_end_stops_the_run(passes, monkeypatch):
    """Once every song has ended, the rest is not written."""
    monkeypatch.setattr(decode, "LOOK_EVERY", 4)
    monkeypatch.setattr(decode, "pick", lambda logits, *_: logits[:, 0].isfinite().logical_not().long())
    request = CodesRequest((prompt(1, 20),), None, 40, (1,), natural_end=True)
    assert write_codes(PlainRuntime(), small_lm(), request) == [(0,) * 32]
    assert len(passes["steps"]) == 36


def test_numbers_that_are_not_finite_are_an_error():
    broken = Qwen3(network().config)
    broken.load_state_dict(network().state_dict())
    with torch.no_grad():
        broken.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
    lm = LM(Handle(broken.requires_grad_(False), torch.float32), tokenizer(), "broken.safetensors")
    request = CodesRequest((prompt(1, 20),), NEGATIVE, 50, (1,))
    with pytest.raises(ACEStepError, match=r"planner broken\.safetensors: .* first 32 tokens.*precision fp32"):
        write_codes(PlainRuntime(), lm, request)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": 0}, "codes must be at least 1"),
        ({"seeds": (1, 2)}, "expected a seed for each song, got 1 prompts, 2 seeds"),
        ({"prompts": ()}, "got 0 prompts"),
        ({"prompts": ((),)}, "prompt has no tokens"),
        ({"guidance": -1.0}, r"guidance must be a number from 0 on .* got -1\.0"),
        ({"guidance": float("nan")}, "got nan"),
        ({"negative": ((1, 2), (3, 4))}, "expected one negative prompt or 1, got 2"),
        ({"codes": 40_960}, "a prompt of 3 tokens and 40960 tokens to be written are more than the 40960"),
    ],
)
def test_requests_that_cannot_be_met(wrong, message):
    with pytest.raises(ValueError, match=message):
        CodesRequest(**{"prompts": ((1, 2, 3),), "negative": (4, 5), "codes": 5, "seeds": (1,), **wrong})


@pytest.mark.slow
def test_ten_minutes_after_long_lyrics():
    request = CodesRequest((prompt(1, 4000),), NEGATIVE, 3000, (1,))
    assert len(write_codes(PlainRuntime(), small_lm(), request)[0]) == 3000
