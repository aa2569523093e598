"""Teacher forcing through a cache and slices of the vocabulary, against plain passes over the whole text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from acestep_models.errors import ACEStepError
from acestep_models.qwen3.model import Qwen3, Qwen3Config
from acestep_models.scoring import likelihood
from acestep_models.scoring.likelihood import Reader, TokenScores, reading_bytes, token_scores

TINY = Qwen3Config(
    vocab_size=211,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(perturb: Callable[..., nn.Module]) -> Qwen3:
    torch.manual_seed(0)
    built = perturb(Qwen3(TINY), 5)
    assert isinstance(built, Qwen3)
    return built


def ids(seed: int, *lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, TINY.vocab_size, (length,), generator=generator).tolist() for length in lengths]


def reader(model: Qwen3, capacity: int, on_tokens: Callable[[int], None] = lambda n: None) -> Reader:
    return Reader(model, capacity, CPU, torch.float32, on_tokens)


def plainly(model: Qwen3, prompt: list[int], text: list[int]) -> TokenScores:
    """One pass over both, without a cache; ranks by sorting."""
    logits = model.logits(model(torch.tensor([prompt + text])))[0, len(prompt) - 1 : -1]
    targets = torch.tensor(text)[:, None]
    ranks = (logits.argsort(dim=-1, descending=True) == targets).int().argmax(dim=-1) + 1
    return TokenScores(logits.log_softmax(dim=-1).gather(1, targets)[:, 0], ranks)


def check_equal(found: TokenScores, expected: TokenScores) -> None:
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-6, atol=1e-5)
    assert found.ranks.tolist() == expected.ranks.tolist()


@torch.no_grad()
@pytest.mark.parametrize(("chunk", "rows", "states"), [(512, 16_384, 1024), (7, 64, 5), (1, 50, 1)])
def test_texts_share_a_prompt_and_are_judged_as_if_alone(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, chunk: int, rows: int, states: int
) -> None:
    for name, value in (("CHUNK", chunk), ("ROWS", rows), ("STATES", states)):
        monkeypatch.setattr(likelihood, name, value)
    reading = reader(model, 40)
    for seed, length in ((1, 21), (2, 1), (3, 9)):  # the second prompt is shorter: nothing of the first may be seen
        prompt, *texts = ids(seed, length, 3, 19, 1, 8)
        for found, text in zip(reading.scores(prompt, texts), texts, strict=True):
            check_equal(found, plainly(model, prompt, text))


@torch.no_grad()
def test_the_vocabulary_is_whole_and_equals_share_a_rank(model: Qwen3) -> None:
    states = torch.randn(1, TINY.hidden_size, generator=torch.Generator().manual_seed(4))
    everything = token_scores(
        model.embed_tokens.weight, states.expand(TINY.vocab_size, -1), torch.arange(TINY.vocab_size)
    )
    assert float(everything.log_probs.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert sorted(everything.ranks.tolist()) == list(range(1, TINY.vocab_size + 1))
    tied = token_scores(model.embed_tokens.weight, torch.zeros(2, TINY.hidden_size), torch.tensor([0, 200]))
    assert tied.ranks.tolist() == [1, 1]
    torch.testing.assert_close(tied.log_probs, torch.full((2,), -torch.tensor(float(TINY.vocab_size)).log()))


@torch.no_grad()
def test_bfloat16_states_meet_the_vocabulary_in_float32(model: Qwen3) -> None:
    """A bfloat16 product would round a logit of 20 to multiples of 0.125."""
    head = model.embed_tokens.weight.bfloat16()
    states = (12 * torch.randn(30, TINY.hidden_size, generator=torch.Generator().manual_seed(6))).bfloat16()
    targets = torch.arange(30)
    found, expected = token_scores(head, states, targets), token_scores(head.double(), states.double(), targets)
    assert float(expected.log_probs.min()) < -20
    assert found.log_probs.dtype == torch.float32
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-6, atol=1e-5)
    assert found.ranks.tolist() == expected.ranks.tolist()


@torch.no_grad()
def test_every_pass_is_announced_and_may_be_stopped(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 8)
    monkeypatch.setattr(likelihood, "STATES", 6)
    prompt, one, two = ids(7, 20, 5, 11)
    passes: list[int] = []
    reader(model, 40, passes.append).scores(prompt, [one, two])
    # The last token of a text predicts nothing; then 16 states meet the vocabulary, 6 at a time.
    assert passes == [8, 8, 4, 4, 8, 2, 0, 0, 0]

    def stop(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reader(model, 40, stop).scores(prompt, [one])


@torch.no_grad()
def test_damaged_weights_are_named(model: Qwen3) -> None:
    broken = Qwen3(TINY)
    broken.load_state_dict({**model.state_dict(), "norm.weight": torch.full((48,), torch.nan)})
    with pytest.raises(ACEStepError, match=r"planner: 384 of 384 values are not finite"):
        reader(broken, 20).scores(*[ids(8, 6, 8)[0], [ids(8, 8)[0]]])


def peak_bytes(work: Callable[[], Tensor | object]) -> int:
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        work()
    peak = live = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@torch.no_grad()
@pytest.mark.parametrize(("prompt", "text", "vocabulary"), [(1200, 60, 211), (90, 900, 3000), (40, 12, 20_000)])
def test_the_promised_room_bounds_what_is_measured(prompt: int, text: int, vocabulary: int) -> None:
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
    )
    model, given = Qwen3(config), ([0] * prompt, [[0] * text])
    peak = peak_bytes(lambda: reader(model, prompt + text).scores(*given))
    promised = reading_bytes(config, prompt + text, text, torch.float32)
    assert 0 < peak <= promised <= 8 * peak
