"""The text phase: shared prompts, forced runs, growing caches, limits, cancel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.planner import generate
from acestep_models.planner.actions import Choose, Force, Mask, Stop
from acestep_models.planner.generate import write_text
from acestep_models.planner.lm import LM
from acestep_models.planner.sampling import TokenSampling
from acestep_models.qwen3.model import Qwen3
from acestep_models.runtime import Handle, PlainRuntime

sys.path.append(str(Path(__file__).resolve().parent))

from small_lm import CODES, network, prompt, replaying, script, small_lm, tokenizer  # noqa: E402

ROWS = tokenizer().size - CODES
SAMPLING = TokenSampling()
FREE = torch.ones(ROWS, dtype=torch.bool)


class Listed:
    """A writer that hands out a list of actions and remembers what was taken."""

    def __init__(self, *actions):
        self.actions, self.taken = [*actions, Stop()], []

    def next_action(self):
        return self.actions.pop(0) if len(self.actions) > 1 else self.actions[0]

    def take(self, token):
        self.taken.append(token)


def write(writers, limit=100, lm=None, runtime=None, prompts=None):
    count = len(writers)
    prompts = prompts or [prompt(1, 20)] * count
    return write_text(runtime or PlainRuntime(), lm or small_lm(), prompts, writers, range(count), SAMPLING, limit)


@pytest.fixture
def passes(monkeypatch):
    """Tokens of each pass: the prompts', and those over several texts."""
    seen, whole, packed = [], Qwen3.forward, Qwen3.packed

    def forward(self, tokens, **others):
        seen.append(tokens.shape[1])
        return whole(self, tokens, **others)

    def step(self, tokens, texts):
        seen.append(-len(tokens))
        return packed(self, tokens, texts)

    monkeypatch.setattr(Qwen3, "forward", forward)
    monkeypatch.setattr(Qwen3, "packed", step)
    return seen


def test_a_forced_run_is_read_in_one_pass_with_what_stands_before_it(passes):
    one = Listed(Force((7, 8, 9)), Mask(FREE), Force((5,)), Force((6,)), Choose((3, 4)), Choose((11,)), Force((12,)))
    other = Listed(Mask(FREE), Mask(FREE), Mask(FREE))
    written = write([one, other])
    assert passes == [19, -(4 + 1), -(3 + 1), -1], "the equal prompts once, then each song's own tokens, no last one"
    assert written[0][:3] == [7, 8, 9]
    assert written[0][4:6] == [5, 6]
    assert written[0][7:] == [11, 12]
    assert written[0][6] in (3, 4)
    assert one.taken == [written[0][3], written[0][6], 11]
    assert other.taken == written[1]


def test_a_text_that_is_certain_needs_no_network(passes):
    assert write([Listed(Force((1, 2))), Listed(Choose((3,)), Force((4,)))]) == [[1, 2], [3, 4]]
    assert passes == [19]


def test_greedy_choice_is_the_likeliest(relative_error):
    allowed = tuple(range(0, 300, 30))
    written = [write([Listed(Choose(allowed, greedy=True))] * 1)[0] for _ in range(2)]
    with torch.no_grad():
        scores = network().logits(network()(torch.tensor([prompt(1, 20)])))[0, -1, list(allowed)]
    assert written[0] == written[1] == [allowed[int(scores.argmax())]]


def test_a_mask_is_moved_once(monkeypatch):
    moves, plain = [], torch.Tensor.to

    def move(self, *args, **others):
        if self.dtype == torch.bool and self.shape == (ROWS,):
            moves.append(self)
        return plain(self, *args, **others)

    monkeypatch.setattr(torch.Tensor, "to", move)
    write([Listed(*[Mask(FREE)] * 9), Listed(*[Mask(FREE)] * 9)])
    assert len(moves) == 1


def test_a_wrong_mask_is_named():
    with pytest.raises(ValueError, match=rf"a mask must be \[{ROWS}\], got \[3\]"):
        write([Listed(Mask(torch.ones(3, dtype=torch.bool)))])


@pytest.mark.parametrize("limit", [1, 5])
def test_a_song_ends_at_the_limit(limit):
    written = write([Listed(Force((1, 2, 3)), Mask(FREE), Force((4, 5, 6))), Listed(*[Mask(FREE)] * 50)], limit)
    assert [len(song) for song in written] == [limit, limit]
    assert written[0] == [1, 2, 3, written[0][3] if limit > 3 else 0, 4][:limit]


def test_caches_grow_and_very_long_runs_are_read_apart(monkeypatch, passes):
    long = tuple(int(token) for token in torch.randint(0, ROWS, (30,), generator=torch.Generator().manual_seed(3)))

    def writers():
        return [Listed(Mask(FREE), Force(long), *[Mask(FREE)] * 20), Listed(*[Mask(FREE)] * 40)]

    wide = write(writers())
    monkeypatch.setattr(generate, "GROWTH", 3)
    monkeypatch.setattr(generate, "CHUNK", 8)
    passes.clear()
    assert write(writers()) == wide
    assert 30 in passes, "sampled id and run, all but the last token"


@pytest.mark.parametrize("count", [1, 3])
def test_steps_of_fixed_sizes_give_the_same_text(count, monkeypatch):
    """Alternating with passes over runs, over caches that grow, while songs end."""
    monkeypatch.setattr("acestep_models.planner.static.WINDOW", 16)
    monkeypatch.setattr(generate, "GROWTH", 10)
    recorded = []

    def writers():
        return [script(seed, 30 + 9 * seed, ROWS) for seed in range(count)]

    assert write(writers(), lm=small_lm(replaying(recorded))) == write(writers())
    assert recorded


def test_progress_and_cancel():
    runtime, pairs = PlainRuntime(), []
    runtime.progress = lambda done, total: pairs.append((done, total))
    write([Listed(Force((1, 2)), *[Mask(FREE)] * 4)], runtime=runtime)
    assert pairs == [(3, 100), (4, 100), (5, 100), (6, 100), (100, 100)]
    assert runtime.last_words.startswith("text 6, ")

    def press(done, total):
        runtime.cancel = done == 4
        pairs.append((done, total))

    pairs.clear()
    runtime.progress = press
    writer = Listed(*[Mask(FREE)] * 50)
    with pytest.raises(Cancelled):
        write([writer], runtime=runtime)
    assert len(writer.taken) == 5


def test_numbers_that_are_not_finite_are_an_error():
    broken = Qwen3(network().config)
    broken.load_state_dict({**network().state_dict(), "norm.weight": torch.full((64,), float("inf"))})
    lm = LM(Handle(broken.requires_grad_(False), torch.float32), tokenizer(), "broken")
    for action in (Mask(FREE), Choose((1, 2))):
        with pytest.raises(ACEStepError, match="planner broken: its logits are not finite .* first 1 tokens"):
            write([Listed(action)], lm=lm)


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="expected a writer and a seed a prompt, got 2, 1, 1"):
        write([Listed()], prompts=[prompt(1, 3)] * 2)
    with pytest.raises(ValueError, match="the planner's prompt has no tokens"):
        write([Listed()], prompts=[()])
    with pytest.raises(ValueError, match="a prompt of 40960 tokens and 1 tokens to be written are more than"):
        write([Listed()], prompts=[(1,) * 40_960])
