"""Wishes that no plan can grant."""

from __future__ import annotations

import pytest

from acestep_models.blueprint import Blueprint
from acestep_models.planner.grammar import Outline
from acestep_models.planner.plan import PlanOptions, plan
from acestep_models.planner.understand import UnderstandOptions
from acestep_models.runtime import PlainRuntime

WORDS = Blueprint(caption="calm piano", lyrics="la")


@pytest.fixture
def run(tiny_lm):
    """run(drafts, mode, ...) with the tiny planner."""
    return lambda drafts, mode, **options: plan(PlainRuntime(), tiny_lm, drafts, PlanOptions(mode, **options))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "magic"}, "mode: expected one of simple, format, plan, rewrite, language, got 'magic'"),
        ({"songs": 0}, "songs: expected 1 to 8, got 0"),
        ({"songs": 9}, "songs: expected 1 to 8, got 9"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"sentence": "a" * 4097}, "sentence: at most 4096 characters, got 4097; shorten the sentence"),
        ({"sentence": "half \ud83c"}, "sentence: half a character .* at position 5, after 'half '"),
        ({"sentence": "<think>"}, "sentence: .*control token"),
        ({"mode": "language", "instrumental": True}, "instrumental: is on, but the mode language .* switch it off"),
    ],
)
def test_bad_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PlanOptions(**{"mode": "plan", **wrong})


@pytest.mark.parametrize("options", [PlanOptions("plan"), UnderstandOptions(), Outline(())])
def test_texts_are_no_longer_than_the_decoder_reads(options):
    assert (options.caption_tokens, options.genre_tokens, options.lyric_tokens) == (192, 64, 2000)


def test_a_sentence_is_recorded_only_where_it_was_read(run):
    assert run((WORDS,), "plan", sentence="a waltz")[0].sentence == ""
    assert run((Blueprint(lyrics="la"),), "plan", sentence="a waltz")[0].sentence == "a waltz"


def test_a_text_needs_room(run):
    with pytest.raises(ValueError, match="room for at least 1 token"):
        run((WORDS,), "rewrite", caption_tokens=0)


def test_the_number_of_drafts_fits_the_songs(run):
    with pytest.raises(ValueError, match="3 songs need 1 or 3 blueprints, got 2"):
        run((WORDS, WORDS), "plan", songs=3)


def test_a_clip_too_short_for_a_song_leaves_the_duration_to_the_others(run):
    """7 codes are 1.4 s, which no other song can have."""
    drafts = (Blueprint(caption="a", codes=(1,) * 7), Blueprint(caption="b"), Blueprint(caption="c"))
    clip, first, second = run(drafts, "plan", songs=3, different=True)
    assert clip.length == 1.4 and clip.bpm and clip.seconds is None
    assert first.seconds == second.seconds >= 10
