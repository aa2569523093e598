"""Texts that the model does not end: where they are cut, who is told, and whose words stay."""

from __future__ import annotations

import pytest

from acestep_models.blueprint import INSTRUMENTAL, Blueprint
from acestep_models.planner import ask as asking
from acestep_models.planner.actions import Force
from acestep_models.planner.grammar import BlockWriter, Field, Outline
from acestep_models.planner.parse import read_answer, read_block, read_lyrics
from acestep_models.planner.plan import PlanOptions, plan
from acestep_models.planner.understand import UnderstandOptions, understand
from acestep_models.runtime import PlainRuntime

WORDS = Blueprint(caption="calm piano", lyrics="\n[Verse]\nla là \n")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("\n\n# Lyric\n[Verse]\nla la\nlo l", "[Verse]\nla la"),
        ("\n\n# Lyric\n[Verse]\nla la\nlo\n", "[Verse]\nla la\nlo"),  # the line had come to its end
        ("[Verse]\nla\n\n[Chorus]\n\n", "[Verse]\nla\n\n[Chorus]"),
        ("la lo lu", "la lo"),
        ("啦啦啦", "啦啦啦"),
        ("\n", ""),
        ("", ""),
    ],
)
def test_lyrics_end_with_a_whole_line(text, whole):
    assert read_lyrics(text, cut=True) == whole


@pytest.mark.parametrize(
    ("caption", "whole"),
    [
        (" A slow song. It has a p\n", "A slow song."),
        (" Slow. It has a piano and very many\n  strings, dr\n", "Slow. It has a piano and very many strings"),
        (" 慢歌。钢琴\n", "慢歌。"),
        (" 2.5 to 3.5 beats\n", "2.5 to 3.5"),  # no sentence ends within a number
        (" 'A song: it''s slow\n", "A song: it's"),  # the quote that YAML needs was not closed
        (' "A song: sl\n', "A song"),
        (" 'whole: quoted text'\n", "whole: quoted"),
        (" '\n", "'"),
        (" word\n", "word"),
    ],
)
def test_a_caption_ends_with_a_whole_sentence_or_word(caption, whole):
    assert read_block(f"caption:{caption}bpm: 90\n", {"caption"}) == ({"caption": whole, "bpm": 90}, ())


@pytest.mark.parametrize(("genres", "whole"), [("folk, indie ro", "folk"), ("indie ro", "indie"), ("folk", "folk")])
def test_genres_end_with_a_whole_one(genres, whole):
    assert read_block(f"genres: {genres}\n", {"genres"})[0] == {"genres": whole}


def written(vocabulary, text, **settings):
    """Which texts of a caption, genres and lyrics had to be cut when the model answers these choices."""
    writer = BlockWriter(vocabulary, Outline((Field("caption"), Field("genres")), lyrics=True, **settings))
    for token in vocabulary.tokenizer.encode(text):
        while isinstance(writer.next_action(), Force):
            pass
        writer.take(token)
    writer.next_action()
    return dict(writer.cut)


def test_the_grammar_tells_which_texts_it_had_to_end(tiny_vocabulary):
    caps = {"caption_tokens": 4, "genre_tokens": 3, "lyric_tokens": 5}
    follower = tiny_vocabulary.tokenizer.decode(tiny_vocabulary.tokenizer.encode("genres:")[:1])
    ended = f"a\n{follower}x\nxx<|im_end|>"  # the first letters of what follows end the caption
    assert written(tiny_vocabulary, ended, **caps) == {}
    assert written(tiny_vocabulary, "x" * 12, **caps) == {"caption": 4, "genres": 3, "lyrics": 5}
    assert written(tiny_vocabulary, f"a\n{follower}xxxxx<|im_end|>", **caps) == {"genres": 3}
    assert written(tiny_vocabulary, "x" * 9, **caps) == {"caption": 4, "genres": 3, "lyrics": 5}  # the run ended first


def test_an_answer_knows_what_was_cut(tiny_vocabulary):
    ids = tiny_vocabulary.tokenizer.encode("<think>\ncaption: a b c\ngenres: folk, ro\n</think>la\nlo")
    answer = read_answer(tiny_vocabulary, ids, {"caption": 4, "lyrics": 5})
    assert (answer.values, answer.lyrics) == ({"caption": "a b", "genres": "folk, ro"}, "la")
    assert answer.cut == {"caption": "4 tokens", "lyrics": "5 tokens"}


@pytest.fixture
def answer(monkeypatch, tiny_lm):
    """answer(words, **cut): the lyrics that the model writes, and which texts were cut."""

    def give(words, **cut):
        values = {"bpm": 90, "caption": "new", "seconds": 30.0, "genres": "g", "key": "C major", "language": "en"}
        found = asking.Answer(values | {"time_signature": "4"}, words, (), cut)
        monkeypatch.setattr(asking, "_ask_once", lambda runtime, lm, questions, *_: [found] * len(questions))

    return give


@pytest.fixture
def run(tiny_lm):
    """run(draft, mode, ...) with the tiny planner."""
    return lambda draft, mode, **options: plan(PlainRuntime(), tiny_lm, (draft,), PlanOptions(mode, **options))[0]


def test_a_cut_rewriting_does_not_replace_the_users_words(run, answer):
    answer("la", lyrics="2000 tokens")
    song = run(WORDS, "format")
    assert song.lyrics.encode() == WORDS.lyrics.encode() and "lyrics" not in song.filled
    assert dict(song.lm)["kept_lyrics"] == "2000 tokens" and "cut_lyrics" not in dict(song.lm)
    answer("[Verse]\nlo")
    song = run(song, "format", seed=1)
    assert song.lyrics == "[Verse]\nlo" and not {"kept_lyrics", "cut_lyrics"} & dict(song.lm).keys()


@pytest.mark.parametrize("mode", ["simple", "format"])
def test_cut_texts_are_told(run, answer, mode):
    answer("la", lyrics="2000 tokens", caption="192 tokens")
    song = run(Blueprint(), mode)
    facts = dict(song.lm)
    assert song.lyrics == "la" and (facts["cut_lyrics"], facts["cut_caption"]) == ("2000 tokens", "192 tokens")
    assert "cut_genres" not in facts
    edited = song.edit(lyrics="mine")  # the user's own text is not cut
    assert "cut_lyrics" not in dict(edited.lm) and dict(edited.lm)["cut_caption"] == "192 tokens"
    answer("lo")
    assert not {"cut_lyrics", "cut_caption"} & dict(run(song, "format").lm).keys()


def test_words_that_an_instrumental_drops_were_not_cut(run, answer):
    answer("la", lyrics="2000 tokens")
    song = run(Blueprint(), "simple", instrumental=True)
    assert song.lyrics == INSTRUMENTAL and "cut_lyrics" not in dict(song.lm)


def test_what_is_heard_may_be_cut_too(tiny_lm, answer):
    answer("la", lyrics="2000 tokens")
    song = understand(PlainRuntime(), tiny_lm, (1,) * 60, Blueprint(), UnderstandOptions())
    assert song.lyrics == "la" and dict(song.lm)["cut_lyrics"] == "2000 tokens"


def test_a_real_run_is_cut_at_its_cap(run, tiny_lm):
    """The tiny model never ends a text by itself."""
    song = run(Blueprint(), "simple", caption_tokens=30, genre_tokens=5, lyric_tokens=60)
    facts = dict(song.lm)
    assert facts["cut_lyrics"] == "60 tokens" and song.lyrics
    assert len(tiny_lm.tokenizer.encode(song.lyrics)) <= 60
