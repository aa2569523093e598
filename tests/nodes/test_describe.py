"""What the planner's nodes say of songs: cut texts, texts beyond the decoder, codes of other words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture
def describe(pack):
    return pack("describe")


@pytest.fixture
def song(core):
    """song(...) is a blueprint."""
    return lambda **fields: core("blueprint").Blueprint(**{"caption": "calm piano", "lyrics": "la", **fields})


def test_cut_texts_are_said(describe, song):
    cut = (("cut_caption", "192 tokens"), ("cut_lyrics", "2000 tokens"))
    lines = describe.describe_songs((song(lm=cut, filled={"caption", "lyrics"}),))
    assert lines[-2:] == (
        "caption: cut after 192 tokens, at the end of a sentence or a word",
        "lyrics: cut after 2000 tokens, at the end of a line",
    )
    kept = describe.describe_songs((song(lm=(("kept_lyrics", "2000 tokens"),)),))
    assert kept[-2:] == (
        "lyrics (yours): la",
        "lyrics: the planner's were cut after 2000 tokens, so those before are kept",
    )
    assert describe.describe_songs((song(),))[-1] == "lyrics (yours): la"


def test_a_length_that_nobody_chose_is_nobodys(describe, song):
    lines = describe.describe_songs((song(seconds=60, lm=(("default_seconds", True),)),))
    assert "seconds: 60 (auto)" in lines
    assert "seconds: 60 (yours)" in describe.describe_songs((song(seconds=60),))


def test_texts_beyond_the_decoder_are_said(describe, core, song):
    tokenizer = core("qwen3.tokenizer").Tokenizer.from_json(core("tiny.tokens").planner_json(64))
    lm, long = SimpleNamespace(tokenizer=tokenizer), song(lyrics="x" * 3000)
    assert describe.describe_limits(lm, (song(), song())) == ()
    assert describe.describe_limits(lm, (long, song(), long)) == (
        "songs 1, 3: the lyric prompt has 3010 tokens, the model reads at most 2048. Shorten the lyrics or make the "
        "song in two parts.",
    )


def test_codes_of_other_words_are_said(describe, song):
    codes = {"codes": (1,) * 60}
    before = song(**codes)
    said = "song 1: the codes were written for the words before; run WriteCodes"
    assert describe.describe_old_codes((before,), (song(caption="new", **codes),)) == said
    assert describe.describe_old_codes((before,), (song(bpm=90, **codes),) * 2).startswith("songs 1, 2: the codes")
    assert describe.describe_old_codes((before, before), (before, song(lyrics="lo", **codes))) == said.replace("1", "2")
    for same in (before, song(language="en", genres="folk", **codes), song(caption="new")):
        assert describe.describe_old_codes((before,), (same,)) == ""


def test_locked_fields_are_said_whoever_set_them(describe, song):
    names = ["bpm", "key", "time_signature", "seconds", "genres"]
    draft = song(lyrics="", bpm=90, time_signature="6", seconds=60, filled={"bpm"}, lm=(("default_seconds", True),))
    lines = describe.describe_songs((draft.lock([*names, "caption", "lyrics"]),))
    for line in (
        "bpm: 90 (filled in, locked)",
        "key: auto, locked",
        "time signature: 6/8 (yours, locked)",
        "seconds: 60 (auto, locked)",
        "genres: auto, locked",
        "caption (yours, locked): calm piano",
        "lyrics: none, locked",
    ):
        assert line in lines
    assert "time signature: 4/4 (yours)" in describe.describe_songs((song(time_signature="4"),))
