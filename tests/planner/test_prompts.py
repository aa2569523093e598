"""What the planner reads, byte for byte (spec/planner.md §2)."""

from __future__ import annotations

import pytest
import yaml

from acestep_models.blueprint import LANGUAGES, Blueprint
from acestep_models.lm_prompts import (
    LANGUAGE_NAMES,
    TAG,
    codes_prompt,
    facts,
    format_prompt,
    inspire_prompt,
    legacy_codes_prompt,
    legacy_negative_prompt,
    negative_prompt,
    plan_prompt,
    think_block,
    think_line,
    understand_nothing_prompt,
    understand_prompt,
)
from acestep_models.prompts import lyric_prompt

GENERATE = (
    b"<|im_start|>system\n# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n<|im_end|>\n"
)
REWRITE = (
    b"<|im_start|>system\n# Instruction\nFormat the user's input into a more detailed and specific musical "
    b"description:\n\n<|im_end|>\n"
)
INSPIRE = (
    b"<|im_start|>system\n# Instruction\nExpand the user's input into a more detailed and specific musical "
    b"description:\n\n<|im_end|>\n"
)
UNDERSTAND = (
    b"<|im_start|>system\n# Instruction\nUnderstand the given musical conditions and describe the audio semantics "
    b"accordingly:\n\n<|im_end|>\n"
)
FACTS = {"bpm": 90, "duration": 30}
THINK = b"<think>\nbpm: 90\nduration: 30\n</think>"

GOLDEN = {
    "inspire": (
        inspire_prompt("a soft Bengali love song for a quiet evening"),
        INSPIRE + b"<|im_start|>user\na soft Bengali love song for a quiet evening\n\ninstrumental: false<|im_end|>\n"
        b"<|im_start|>assistant\n",
    ),
    "inspire, nothing": (
        inspire_prompt(" \n", instrumental=True, language="en"),
        INSPIRE + b"<|im_start|>user\nNO USER INPUT\n\ninstrumental: true<|im_end|>\n<|im_start|>assistant\n",
    ),
    "inspire, language": (
        inspire_prompt("A love song.", language="bn"),
        INSPIRE + b"<|im_start|>user\nA love song, vocals in Bengali\n\ninstrumental: false<|im_end|>\n"
        b"<|im_start|>assistant\n",
    ),
    "format": (
        format_prompt("Latin pop, reggaeton, flamenco-pop", "[Verse 1]\nTengo un nudo en la garganta"),
        REWRITE + b"<|im_start|>user\n# Caption\nLatin pop, reggaeton, flamenco-pop\n\n# Lyric\n[Verse 1]\nTengo un "
        b"nudo en la garganta<|im_end|>\n<|im_start|>assistant\n",
    ),
    "format, nothing": (
        format_prompt("", " "),
        REWRITE + b"<|im_start|>user\n# Caption\nNO USER INPUT\n\n# Lyric\n[Instrumental]<|im_end|>\n"
        b"<|im_start|>assistant\n",
    ),
    "plan": (
        plan_prompt("sad piano", "[Verse]\nLa pluie tombe sur la ville"),
        GENERATE
        + b"<|im_start|>user\n# Caption\nsad piano\n\n# Lyric\n[Verse]\nLa pluie tombe sur la ville\n<|im_end|>\n"
        b"<|im_start|>assistant\n",
    ),
    "codes": (
        codes_prompt("calm piano", "[Instrumental]", think_block(FACTS)),
        GENERATE + b"<|im_start|>user\n# Caption\ncalm piano\n\n# Lyric\n[Instrumental]\n<|im_end|>\n"
        b"<|im_start|>assistant\n" + THINK + b"\n\n",
    ),
    "codes, no facts": (
        codes_prompt("calm piano", "", think_block({})),
        GENERATE + b"<|im_start|>user\n# Caption\ncalm piano\n\n# Lyric\n[Instrumental]\n<|im_end|>\n"
        b"<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "negative": (
        negative_prompt(),
        GENERATE + b"<|im_start|>user\nNO USER INPUT<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "negative, sentinel": (negative_prompt(" NO USER INPUT "), negative_prompt().encode()),
    "negative, own": (
        negative_prompt("noise, clipping"),
        GENERATE + b"<|im_start|>user\nnoise, clipping<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "legacy codes": (
        legacy_codes_prompt("calm piano", "", think_block(FACTS)),
        GENERATE + b"<|im_start|>user\n# Caption\ncalm piano\n\n# Lyric\n[Instrumental]\n<|im_end|>\n"
        b"<|im_start|>assistant\n" + THINK + b"\n\n<|im_end|>\n",
    ),
    "legacy negative": (
        legacy_negative_prompt("calm piano", "la"),
        GENERATE + b"<|im_start|>user\n# Caption\ncalm piano\n\n# Lyric\nla\n<|im_end|>\n"
        b"<|im_start|>assistant\n<think>\n\n</think>\n\n<|im_end|>\n",
    ),
    "legacy negative, own": (
        legacy_negative_prompt("calm piano", "la", "noise"),
        GENERATE + b"<|im_start|>user\n# Caption\nnoise\n\n# Lyric\nla\n<|im_end|>\n"
        b"<|im_start|>assistant\n<think>\n\n</think>\n\n<|im_end|>\n",
    ),
    "understand": (
        "+codes+".join(understand_prompt()),
        UNDERSTAND + b"<|im_start|>user\n+codes+<|im_end|>\n<|im_start|>assistant\n",
    ),
    "understand nothing": (
        understand_nothing_prompt(),
        UNDERSTAND + b"<|im_start|>user\nNO USER INPUT<|im_end|>\n<|im_start|>assistant\n",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_every_prompt_is_byte_exact(name):
    ours, golden = GOLDEN[name]
    assert ours.encode() == golden


def test_texts_go_in_untrimmed():
    caption, lyrics = "  two spaces \n", "\n[Verse]\nla \n\n"
    assert f"# Caption\n{caption}\n\n# Lyric\n{lyrics}\n<|im_end|>" in plan_prompt(caption, lyrics)
    assert f"# Caption\n{caption}\n\n# Lyric\n{lyrics}<|im_end|>" in format_prompt(caption, lyrics)
    assert f"user\n{caption}\n\ninstrumental" in inspire_prompt(caption)


SONG = Blueprint(
    caption="A warm and slow jazz ballad with soft brushed drums, deep upright bass and a lonely muted trumpet: live",
    lyrics="la",
    bpm=72,
    key="F♯ minor",
    time_signature="6/8",
    seconds=30.8,
    language="no",
    genres="jazz",
)


def test_think_block_is_what_pyyaml_writes():
    """Folded at 80, quoted where YAML needs it, numbers bare, genres left out."""
    assert think_block(facts(SONG)).encode() == (
        b"<think>\nbpm: 72\n"
        b"caption: 'A warm and slow jazz ballad with soft brushed drums, deep upright bass and\n"
        b"  a lonely muted trumpet: live'\n"
        b"duration: 30\nkeyscale: F# minor\nlanguage: 'no'\ntimesignature: 6\n</think>"
    )


@pytest.mark.parametrize(
    "caption",
    [
        "it's # a 'quote'", "'tis", "- dash", "a: b", "[x]", "multi\n\nline\n", " padded ", "漢字 ♫ 🎵", "a" * 300,
        "word " * 100, "tab\tand \x07 bell", "null", "yes", "1.5", "? x", "é\u2028è",
    ],
)  # fmt: skip
def test_a_block_is_the_dump_of_all_its_values(caption):
    values = facts(Blueprint(caption=caption, bpm=90, time_signature="3", language="no"))
    dump = yaml.dump({**values, "timesignature": 3}, allow_unicode=True, sort_keys=True).strip()
    assert think_block(values) == f"<think>\n{dump}\n</think>"
    assert yaml.safe_load(dump)["caption"] == caption


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_in_the_think_block_and_in_the_lyric_header(language):
    song = Blueprint(lyrics="x", language=language)
    written = "'no'" if language == "no" else language
    assert think_block(facts(song)) == f"<think>\nlanguage: {written}\n</think>"
    assert yaml.safe_load(think_line("language", language)) == {"language": language}
    assert lyric_prompt(song).startswith(f"# Languages\n{language}\n\n# Lyric\n")


def test_every_language_has_a_name_to_ask_for():
    assert {*LANGUAGE_NAMES, "unknown"} == set(LANGUAGES) and len(LANGUAGES) == 51
    assert "vocals" not in inspire_prompt("a song", language="unknown")
    assert "vocals" not in inspire_prompt("a song", instrumental=True, language="en")


def test_digits_become_numbers_and_the_duration_that_of_the_codes():
    assert think_line("timesignature", "4") == "timesignature: 4" and think_line("caption", "808") == "caption: 808"
    assert facts(Blueprint(codes=(1,) * 77)) == {"duration": 15}
    assert facts(Blueprint(caption=" ")) == {}


TYPED = ("<|im_end|>", "<|audio_code_5|>", "<think>", "</think>", "<|im_start|>", "<|endoftext|>", "<tool_call>")


@pytest.mark.parametrize("tag", TYPED)
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("sentence", inspire_prompt),
        ("caption", lambda text: plan_prompt(text, "la")),
        ("lyrics", lambda text: format_prompt("a", text)),
        ("negative", negative_prompt),
        ("caption", lambda text: think_block({"caption": text})),
    ],
)
def test_a_tag_that_a_user_types_is_refused(tag, name, build):
    with pytest.raises(ValueError, match=rf"^{name}: .*position 5 is a control token") as error:
        build(f"and: {tag} x")
    assert tag in str(error.value)


def test_what_only_looks_like_a_tag_is_text():
    text = "<3 <|drop|> <thinking> <| im_end |> [think] <|audio_code_|>"
    assert TAG.search(text) is None and text in plan_prompt(text, text)
