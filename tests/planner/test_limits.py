"""What the decoder will not read is known on paper, counted as the text encoder counts."""

from __future__ import annotations

import pytest

from acestep_models.blueprint import KEYS, LANGUAGES, MAX_BPM, Blueprint
from acestep_models.planner.limits import unreadable
from acestep_models.prompts import (
    CAPTION_TOKENS,
    LYRIC_TOKENS,
    PLANNED_CAPTION_TOKENS,
    PLANNED_LYRIC_TOKENS,
    caption_prompt,
    lyric_prompt,
    too_long,
)
from acestep_models.tasks import TASKS


def letters(tokenizer, count):
    """A text of exactly so many tokens."""
    text = "x" * count
    assert len(tokenizer.encode(text)) == count
    return text


def test_the_limit_is_that_of_the_prompt(tiny_vocabulary):
    """Counted with headings, facts and both ends; one token more is too much."""
    tokenizer, instruction = tiny_vocabulary.tokenizer, TASKS["text2music+codes"].instruction
    empty = Blueprint(caption="x", lyrics="x", bpm=90, seconds=30)
    caption = CAPTION_TOKENS - len(tokenizer.encode_prompt(caption_prompt(empty, 30.0, instruction))) + 1
    lyrics = LYRIC_TOKENS - len(tokenizer.encode_prompt(lyric_prompt(empty))) + 1
    texts = {"caption": letters(tokenizer, caption), "lyrics": letters(tokenizer, lyrics)}
    assert unreadable(tokenizer, Blueprint(**texts, bpm=90, seconds=30)) == ()
    longer = {name: f"{text}x" for name, text in texts.items()}
    assert unreadable(tokenizer, Blueprint(**longer, bpm=90, seconds=30)) == (
        "the caption prompt has 257 tokens, the model reads at most 256. Shorten the caption.",
        "the lyric prompt has 2049 tokens, the model reads at most 2048. Shorten the lyrics or make the song in two "
        "parts.",
    )


def test_the_sentence_is_that_of_the_text_encoder():
    assert too_long("lyric", 2048) == too_long("caption", 256) == ""
    assert too_long("lyric", 2100).startswith("the lyric prompt has 2100 tokens, the model reads at most 2048")


def overhead(tokenizer):
    """Tokens beside caption and lyrics at most, whatever the facts, in a task that names no tracks."""
    songs = [Blueprint(caption="x", lyrics="x", bpm=MAX_BPM, key=key, time_signature="4", seconds=600) for key in KEYS]
    tasks = [task.instruction for task in TASKS.values() if not task.most_tracks]
    captions = [caption_prompt(song, 600.0, instruction) for song in songs for instruction in tasks]
    lyrics = [lyric_prompt(Blueprint(lyrics="x", language=language)) for language in LANGUAGES]
    return [max(len(tokenizer.encode_prompt(text)) for text in texts) - 1 for texts in (captions, lyrics)]


def test_what_the_planner_writes_can_be_read(tiny_vocabulary):
    caption, lyrics = overhead(tiny_vocabulary.tokenizer)
    assert PLANNED_CAPTION_TOKENS + caption <= CAPTION_TOKENS and PLANNED_LYRIC_TOKENS + lyrics <= LYRIC_TOKENS


@pytest.mark.host
def test_what_a_published_planner_writes_can_be_read(real_vocabulary):
    caption, lyrics = overhead(real_vocabulary.tokenizer)
    assert PLANNED_CAPTION_TOKENS + caption <= CAPTION_TOKENS and PLANNED_LYRIC_TOKENS + lyrics <= LYRIC_TOKENS
