"""The tiny tokenizers: every text round-trips, ids never move, prompts fit."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as RustTokenizer

from acestep_models.blueprint import Blueprint
from acestep_models.prompts import CAPTION_TOKENS, caption_prompt
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.tiny.tokens import BYTE_LETTERS, WORDS, planner_json, planner_rows, text_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(text_tokenizer())


@pytest.mark.parametrize(
    "text", ["", "plain words", "naïve çà ñ", "漢字かな交じり", "🎵🎶\u200d", "a\n\n\tb  c", "[verse]\n'll"]
)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_byte_has_its_own_letter():
    assert len(set(BYTE_LETTERS)) == 256
    assert (BYTE_LETTERS[ord(" ")], BYTE_LETTERS[ord("\n")], BYTE_LETTERS[ord("A")]) == ("Ġ", "Ċ", "A")


def test_ids_are_fixed(tokenizer):
    """No training decides them: a change here changes every tiny model."""
    assert tokenizer.size == 630
    assert tokenizer.end_id == 625
    assert tokenizer.encode(".\n") == [470] and tokenizer.encode("\n\n") == [515]


def test_each_word_is_one_token(tokenizer):
    assert all(len(tokenizer.encode(space + word)) == 1 for word in WORDS for space in ("", " "))


def test_post_processor_appends_the_end_but_our_encode_does_not():
    assert text_tokenizer().encode("bpm").ids[-1] == 625
    assert Tokenizer(text_tokenizer()).encode("bpm")[-1] != 625


def test_prompts_leave_room_for_a_long_caption(tokenizer):
    caption = (
        "A warm and slow jazz ballad with soft brushed drums, deep upright bass, a lonely muted trumpet and a female "
        "voice that sounds close and tired, recorded live in a small club late at night, with gentle room noise"
    )
    prompt = caption_prompt(Blueprint(caption=caption, bpm=72, key="C# minor", time_signature="4"), 120.0)
    assert len(tokenizer.encode_prompt(prompt)) < CAPTION_TOKENS


def test_planner_has_all_codes_last():
    planner = RustTokenizer.from_str(planner_json())
    first = planner.token_to_id("<|audio_code_0|>")
    assert first == 630 and planner.token_to_id("<|audio_code_63999|>") == first + 63_999
    assert planner.get_vocab_size() == planner_rows() == first + 64_000
    assert planner.encode("<think>x</think><|audio_code_5|>").ids[-1] == first + 5
