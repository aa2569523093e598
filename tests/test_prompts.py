"""Prompts byte for byte: against written-out bytes and against diffusers' pipeline."""

import itertools

import pytest

from acestep_models.blueprint import LANGUAGES, Blueprint
from acestep_models.prompts import caption_prompt, lyric_prompt

FULL = Blueprint(
    caption="warm lo-fi, dusty drums",
    lyrics="[Verse]\nlä là 啦\n",
    bpm=82,
    key="Am",
    time_signature="4/4",
    language="de",
)


def test_caption_prompt_is_byte_exact():
    assert caption_prompt(FULL, 30.8).encode() == (
        b"# Instruction\nFill the audio semantic mask based on the given conditions:\n\n"
        b"# Caption\nwarm lo-fi, dusty drums\n\n"
        b"# Metas\n- bpm: 82\n- timesignature: 4\n- keyscale: A minor\n- duration: 30 seconds\n<|endoftext|>\n"
    )


def test_unset_facts_read_not_given():
    assert caption_prompt(Blueprint(caption="x"), 60.0).endswith(
        "# Metas\n- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 60 seconds\n<|endoftext|>\n"
    )


def test_lyric_prompt_is_byte_exact():
    assert lyric_prompt(FULL).encode() == "# Languages\nde\n\n# Lyric\n[Verse]\nlä là 啦\n<|endoftext|>".encode()


def test_no_lyrics_read_instrumental_and_no_language_unknown():
    assert lyric_prompt(Blueprint(caption="x")) == "# Languages\nunknown\n\n# Lyric\n[Instrumental]<|endoftext|>"


@pytest.mark.parametrize("lyrics", [" ", "\n\n", "\t"])
def test_blank_lyrics_are_no_lyrics(lyrics):
    assert lyric_prompt(Blueprint(caption="x", lyrics=lyrics)) == lyric_prompt(Blueprint(caption="x"))


def test_an_instruction_gets_its_colon():
    assert caption_prompt(FULL, 10, "Repaint the mask area").startswith("# Instruction\nRepaint the mask area:\n\n")
    assert caption_prompt(FULL, 10, "Repaint:").startswith("# Instruction\nRepaint:\n\n")


@pytest.fixture(scope="module")
def oracle():
    from diffusers import AceStepPipeline

    return AceStepPipeline._format_prompt, object.__new__(AceStepPipeline)


@pytest.mark.parametrize(
    ("bpm", "key", "signature", "seconds"),
    list(itertools.product([None, 30, 300], [None, "C# minor"], [None, "6"], [10.0, 59.8, 600.0])),
)
def test_prompts_equal_diffusers(oracle, bpm, key, signature, seconds):
    words = {"caption": "a\nb ♫", "lyrics": "one\n\n[Chorus]\ntwo", "language": "fr"}
    song = Blueprint(**words, bpm=bpm, key=key, time_signature=signature)
    format_prompt, pipeline = oracle
    text, lyrics = format_prompt(
        pipeline, song.caption, song.lyrics, "fr", seconds, None, bpm=bpm, keyscale=key, timesignature=signature
    )
    assert caption_prompt(song, seconds).encode() == text.encode()
    assert lyric_prompt(song).encode() == lyrics.encode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_written_as_its_code(language):
    assert lyric_prompt(Blueprint(lyrics="x", language=language)).startswith(f"# Languages\n{language}\n\n")
