"""Codes that go on from those of a sound: what the model reads before it writes, and that it is a plain loop's."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.planner import codes as writing
from acestep_models.planner.codes import CodesOptions, write
from acestep_models.runtime import PlainRuntime

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "oracles")]

from plain_lm import plain_codes, plain_model  # noqa: E402
from small_lm import CODES, network, small_lm, tokenizer  # noqa: E402

SONG = Blueprint(caption="calm piano", lyrics="[Verse]\nla", bpm=90, seconds=12.4)
KEPT = (7, 63, 0, 41, 12, 12, 30)
FIRST = tokenizer().size - CODES  # the id of code 0

# Written out, as spec/planner.md §2.4 and §2.5 have it; 7 codes are 1.4 s, and 13.8 s are said as 13.
SYSTEM = (
    "<|im_start|>system\n# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n<|im_end|>\n"
)
ASKED = f"{SYSTEM}<|im_start|>user\n# Caption\ncalm piano\n\n# Lyric\n[Verse]\nla\n<|im_end|>\n<|im_start|>assistant\n"
THOUGHT = "<think>\nbpm: 90\ncaption: calm piano\nduration: 13\n</think>\n\n"
NOTHING = f"{SYSTEM}<|im_start|>user\nNO USER INPUT<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def read(text):
    """The ids of a text, then those of the kept codes."""
    return (*tokenizer().encode(text), *(FIRST + code for code in KEPT))


@pytest.fixture
def requests(monkeypatch):
    """The engine is not run, only asked."""
    seen = []

    def answer(runtime, lm, request):
        seen.append(request)
        return [tuple(range(request.codes))] * len(request.prompts)

    monkeypatch.setattr(writing, "write_codes", answer)
    return seen


def run(songs, after=KEPT, **options):
    return write(PlainRuntime(), small_lm(), songs, CodesOptions(**options), after)


def test_the_kept_codes_follow_the_prompt_and_the_negative(requests):
    (song,) = run([SONG], seed=4)
    (request,) = requests
    assert request.prompts == (read(ASKED + THOUGHT),)
    assert request.negative == read(NOTHING)
    assert (request.codes, request.seeds) == (62, (4,))  # those of the new part alone
    assert len(song.codes) == 62 and song.seconds == 12.4 and dict(song.lm)["codes_after"] == 7


def test_without_guidance_there_is_the_prompt_alone(requests):
    run([SONG], guidance=1.0)
    assert requests[0].prompts == (read(ASKED + THOUGHT),) and requests[0].negative is None


def test_the_legacy_prompt_closes_the_turn_before_the_kept_codes(requests):
    run([SONG, SONG], legacy=True)
    assert requests[0].prompts == (read(f"{ASKED}{THOUGHT}<|im_end|>\n"),) * 2
    assert requests[0].negative == (read(f"{ASKED}<think>\n\n</think>\n\n<|im_end|>\n"),) * 2


@pytest.mark.parametrize(
    ("kept", "seconds", "said"), [(0, 12.4, 12), (3, 12.4, 13), (2, 12.4, 12), (300, 30, 90), (1, 10.8, 11)]
)
def test_the_duration_is_that_of_both(requests, kept, seconds, said):
    (song,) = run([replace(SONG, seconds=seconds)], (5,) * kept)
    assert read(ASKED + THOUGHT.replace("13", str(said)))[: -len(KEPT)] == requests[0].prompts[0][: -kept or None]
    assert song.seconds == seconds and ("codes_after" in dict(song.lm)) == bool(kept)


def test_unset_seconds_are_sixty_new_ones(requests):
    (song,) = run([Blueprint(caption="x")])
    assert song.seconds == 60.0 and len(song.codes) == 300
    assert requests[0].prompts[0] == read(
        f"{SYSTEM}<|im_start|>user\n# Caption\nx\n\n# Lyric\n[Instrumental]\n<|im_end|>\n<|im_start|>assistant\n"
        "<think>\ncaption: x\nduration: 61\n</think>\n\n"
    )


def test_locked_codes_stay(requests):
    locked = replace(SONG, codes=(5,) * 62).lock(["codes"])
    assert run([locked]) == (locked,) and not requests


@cache
def oracle():
    return plain_model(network().config, network().state_dict())


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_it_is_the_plain_loop_over_the_longer_prompt(guidance):
    """Two songs with seeds of their own; ten seconds are 50 codes."""
    song = replace(SONG, seconds=10)
    found = run([song, song], seed=8, guidance=guidance)
    negative = read(NOTHING) if guidance > 1 else None
    prompt = read(ASKED + THOUGHT.replace("13", "11"))
    for place, written in enumerate(found):
        with torch.no_grad():
            expected = plain_codes(oracle(), prompt, negative, 50, 8 + place, (FIRST, CODES), guidance=guidance)
        assert written.codes == expected
    assert found[0].codes != run([song], (), seed=8, guidance=guidance)[0].codes


@pytest.mark.parametrize(
    ("song", "after", "message"),
    [
        (SONG, (64_000,), "after: expected codes of 0 to 63999, got 64000"),
        (SONG, (-1,), "after: expected codes of 0 to 63999, got -1"),
        (
            replace(SONG, seconds=570),
            (1,) * 300,
            r"60 s to go on from and 570 s to be written are 630 s, .*600 s at most; let it hear less \(context\)",
        ),
    ],
)
def test_what_cannot_be_continued_is_said_before_anything_is_written(requests, song, after, message):
    with pytest.raises(ValueError, match=message):
        run([song], after)
    assert not requests
