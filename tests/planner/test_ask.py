"""Answers that are not what was asked for, and what an answer's lyrics mean."""

from __future__ import annotations

import pytest

from acestep_models.blueprint import INSTRUMENTAL, Blueprint
from acestep_models.errors import ACEStepError
from acestep_models.planner import ask as asking
from acestep_models.planner.plan import PlanOptions, plan
from acestep_models.runtime import PlainRuntime

WORDS = Blueprint(caption="calm piano", lyrics="\nla la \n")


@pytest.fixture
def run(tiny_lm):
    """run(draft, mode, ...) with the tiny planner."""
    return lambda draft, mode, **options: plan(PlainRuntime(), tiny_lm, (draft,), PlanOptions(mode, **options))


@pytest.mark.parametrize(
    ("text", "instrumental", "lyrics"),
    [
        ("", False, INSTRUMENTAL),
        ("[Intro]\n\n[Main Theme - Piano]", True, "[Intro]\n\n[Main Theme - Piano]"),
        ("[Intro]\nla la", True, INSTRUMENTAL),
        ("[Intro]\nla la", False, "[Intro]\nla la"),
    ],
)
def test_lyrics_of_an_answer(text, instrumental, lyrics):
    assert asking.heard_lyrics(asking.Answer({}, text, ()), instrumental) == lyrics


def scripted(monkeypatch, tiny_lm, *texts):
    """The model writes these texts, whatever the grammar says."""
    seeds, answers = [], iter(texts)

    def write(runtime, lm, prompts, writers, given, sampling, limit):
        seeds.append(list(given))
        return [tiny_lm.tokenizer.encode(next(answers)) for _ in prompts]

    monkeypatch.setattr(asking, "write_text", write)
    return seeds


WHOLE = "<think>\nbpm: 90\nduration: 30\nkeyscale: C major\nlanguage: en\ntimesignature: 4\n"


def test_a_broken_answer_is_asked_for_again(run, monkeypatch, tiny_lm):
    seeds = scripted(monkeypatch, tiny_lm, WHOLE, "nothing", WHOLE.replace("90", "20"), WHOLE.replace("90", "91"))
    first, second = run(Blueprint(caption="x", seconds=30), "plan", songs=2, different=True, seed=7)
    assert (first.bpm, second.bpm) == (90, 91)
    assert seeds == [[7, 8], [8 + 2**32], [8 + 2 * 2**32]]


def test_three_broken_answers_are_an_error(run, monkeypatch, tiny_lm):
    scripted(monkeypatch, tiny_lm, *[WHOLE.replace("90", "9").replace("en", "xx")] * 3)
    with pytest.raises(ACEStepError, match=r"tiny wrote no usable plan in 3 attempts: song 1 lacks bpm, language"):
        run(Blueprint(caption="x"), "plan")


GENRES = WHOLE.replace("duration", "caption: new\nduration").replace("keyscale", "genres: g\nkeyscale")


@pytest.mark.parametrize("said", ["genres: N/A\n", "genres:\n", "genres: ''\n", ""])
@pytest.mark.parametrize("mode", ["simple", "format"])
def test_a_song_may_have_no_genres(run, monkeypatch, tiny_lm, mode, said):
    seeds = scripted(monkeypatch, tiny_lm, f"{GENRES.replace('genres: g' + chr(10), said)}</think>\n\nla<|im_end|>")
    (song,) = run(Blueprint(bpm=90), mode)
    assert song.genres == "" and "genres" not in song.filled and song.caption == "new" and song.lyrics == "la"
    assert len(seeds) == 1


def test_lyrics_of_a_format_answer_take_the_place_of_the_users(run, monkeypatch, tiny_lm):
    scripted(monkeypatch, tiny_lm, f"{GENRES}</think>\n\n# Lyric\n[Verse]\nla lo\n<|im_end|>")
    (song,) = run(WORDS, "format")
    assert song.lyrics == "[Verse]\nla lo" and "lyrics" in song.filled


def test_lyrics_that_the_model_does_not_write_stay(run, monkeypatch, tiny_lm):
    scripted(monkeypatch, tiny_lm, f"{GENRES}</think>\n\n# Lyric\n<|im_end|>")
    (song,) = run(WORDS, "format")
    assert song.lyrics == WORDS.lyrics and song.caption == "new" and "lyrics" not in song.filled
