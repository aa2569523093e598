"""From a model's text to fields: tolerant, and nothing it can write raises (spec/planner.md §2.8)."""

from __future__ import annotations

import random

import pytest
import yaml

from acestep_models.blueprint import LANGUAGES, Blueprint
from acestep_models.lm_prompts import TAG, think_block, think_line
from acestep_models.planner.parse import read_answer, read_block, read_lyrics, unquote

BLOCK = """
bpm: 124
caption: An upbeat French house track with a funky bass line, filtered disco samples and
  a steady four-on-the-floor beat.

duration: 10
genres: french house, disco
keyscale: F♯ Major
language: fr
timesignature: 4/4
mood: happy
"""


def test_a_block_becomes_fields():
    values, problems = read_block(BLOCK)
    assert problems == ()
    assert values == {
        "bpm": 124,
        "caption": "An upbeat French house track with a funky bass line, filtered disco samples and a steady "
        "four-on-the-floor beat.",
        "seconds": 10.0,
        "genres": "french house, disco",
        "key": "F# major",
        "language": "fr",
        "time_signature": "4",
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_read_as_it_is_written(language):
    assert read_block(think_line("language", language))[0] == {"language": language}
    assert read_block(f"language: {language}")[0] == {"language": language}


@pytest.mark.parametrize(
    "caption",
    [
        "plain", "it's # a 'quote'", "'tis", "- dash", "a: b: c", "[x] {y}", "漢字 ♫ 🎵", "null and void", "1.5", "? x",
        "&a *a", "!!python/object:os.system x", "words " * 99 + "end", "`tick`", '"quoted" and "more"', "'a' or 'b'",
        "- bpm: 3", "key: value\tand tab", "%directive", "@at", "| pipe", "> fold",
    ],
)  # fmt: skip
def test_captions_survive_the_block(caption):
    values, problems = read_block(think_block({"bpm": 90, "caption": caption}).removeprefix("<think>\n"))
    assert values["caption"] == caption.replace("\t", " ") and problems == () and values["bpm"] == 90


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("'it''s'", "it's"),
        ("'a' or 'b'", "'a' or 'b'"),
        ('"tab\\tand \\u00e9"', "tab\tand é"),
        ('"a" and "b"', '"a" and "b"'),
        ('"a": "b"', '"a": "b"'),
        ('"\\U99999999"', '"\\U99999999"'),
        ('"\\U00110000"', '"\\U00110000"'),
        ('"a": ' + "[" * 5000 + '"', '"a": ' + "[" * 5000 + '"'),
        ('"', '"'),
        ("'", "'"),
        ("|\n  text\n  more", "  text\n  more"),
        (">-\n  text", "  text"),
    ],
)
def test_quotes_go_where_they_are_quotes(written, read):
    assert unquote(written) == read


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("bpm: 29", "bpm: expected 30 to 300"),
        ("bpm: fast", "bpm: expected a whole number, got 'fast'"),
        ("bpm: 99999999999999999999", "bpm: expected a whole number"),
        ("bpm: ٣٣", "bpm: expected a whole number"),
        ("duration: 601", "seconds: expected 10 to 600"),
        ("duration: 12.5", "duration: expected a whole number"),
        ("keyscale: H minor", "key: expected a note"),
        ("language: xx", "language: expected one of"),
        ("timesignature: 5", "time_signature: expected 2/4"),
    ],
)
def test_what_is_not_legal_is_left_out_and_named(line, problem):
    values, problems = read_block(f"caption: a\n{line}")
    assert values == {"caption": "a"} and len(problems) == 1 and problems[0].startswith(problem)


@pytest.mark.parametrize("value", ["", "N/A", " ", "''", "\ufffd\x00", "null", "<think>"])
def test_what_says_nothing_is_unset(value):
    assert read_block(f"caption: {value}\nbpm: {value}") == ({}, ())


def test_dirt_goes():
    """Control characters, half letters, and control tokens that were spelled out, even in pieces."""
    values, _ = read_block('caption: a\x00b\ufffd <|im_<|im_end|>end|>c "\ud800"\r')
    assert values["caption"] == 'ab c ""'
    assert read_block('caption: "x\\ud800y"')[0]["caption"] == "xy"
    assert read_lyrics("la\r\nla\x07<|audio_code_5|></think>") == "la\nla"


@pytest.mark.parametrize(
    "text",
    [
        "\n\n# Lyric\n[Verse]\nla<|im_end|>",
        "# Lyrics\n[Verse]\nla",
        "#lyric\n\n[Verse]\nla\n\n",
        "\n# Languages\nen\n\n# Lyric\n[Verse]\nla<|im_end|>\n",
        "[Verse]\nla",
    ],
)
def test_lyrics_lose_their_header(text):
    assert read_lyrics(text) == "[Verse]\nla"


@pytest.mark.parametrize("text", ["", "<|im_end|>", "\n\n# Lyric\n", "# Lyric"])
def test_no_lyrics_are_none(text):
    assert read_lyrics(text) == ""


def test_texts_are_cut_to_what_a_blueprint_holds(tiny_vocabulary):
    values, _ = read_block(f"caption: {'word ' * 2000}\ngenres: {'x' * 3000}")
    assert len(values["caption"]) == 4094 and values["caption"].endswith("word") and len(values["genres"]) == 1024
    ids = tiny_vocabulary.tokenizer.encode("<think>\n</think>" + "la la la\n" * 3000)
    answer = read_answer(tiny_vocabulary, ids)
    assert len(answer.lyrics) <= 16_384 and answer.lyrics.endswith("\nla la la")
    assert answer.cut == {"lyrics": "16384 characters"}
    assert Blueprint(**values, lyrics=answer.lyrics).lyrics == answer.lyrics


def test_tags_are_told_by_their_ids(tiny_vocabulary):
    """A caption that spells </think> in ordinary letters does not end the block."""
    words, encode = tiny_vocabulary, tiny_vocabulary.tokenizer.encode
    spelled = [token for letter in "</think>" for token in encode(letter)]
    ids = [words.think, *encode("\ncaption: a "), *spelled, *encode(" b\nbpm: 90\n"), words.think_end, *encode("la")]
    answer = read_answer(words, ids)
    assert answer.values == {"caption": "a b", "bpm": 90} and answer.lyrics == "la" and answer.problems == ()


def test_a_block_without_its_end_is_read(tiny_vocabulary):
    ids = tiny_vocabulary.tokenizer.encode("<think>\nbpm: 90\nkeyscale: C major\n")
    assert read_answer(tiny_vocabulary, ids).values == {"bpm": 90, "key": "C major"}
    assert read_answer(tiny_vocabulary, []).values == {}


def test_noise_never_raises_and_always_fits_a_blueprint():
    chance = random.Random(4)
    pieces = [
        *"'\"\\|>-:#&*![]{}%@`\n\n  \t\r\x00\x85\u2028\ufffd\ud800aé漢",
        "caption:",
        "bpm: 9",
        "<|im_end|>",
        "\\x",
        "\\u",
    ]
    for _ in range(1000):
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(40)))
        values, _ = read_block(f"caption: {text}")
        song = Blueprint(**values, lyrics=read_lyrics(text))
        assert TAG.search(song.caption + song.lyrics) is None and "\ufffd" not in song.caption


def test_reading_is_the_inverse_of_writing():
    """What PyYAML writes for a single-line caption without control characters comes back."""
    chance = random.Random(5)
    for _ in range(200):
        caption = " ".join("".join(chance.choice("ab:#'\"-,.é漢[]") for _ in range(9)) for _ in range(20))
        assert read_block(think_line("caption", caption))[0]["caption"] == caption
        assert yaml.safe_load(think_line("caption", caption)) == {"caption": caption}
