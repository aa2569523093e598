"""How much of a song on paper the decoder will be able to read, known before anything is made of it."""

from __future__ import annotations

from ..blueprint import Blueprint
from ..prompts import caption_prompt, lyric_prompt, too_long
from ..qwen3.tokenizer import Tokenizer
from ..tasks import TASKS
from ..units import DEFAULT_SECONDS


def unreadable(tokenizer: Tokenizer, song: Blueprint) -> tuple[str, ...]:
    """Caption and lyrics that are too long for the decoder, each as a sentence with count, limit and remedy.

    The planner's tokenizer counts as the text encoder's does: both are Qwen's.
    """
    texts = {
        "caption": caption_prompt(song, song.length or DEFAULT_SECONDS, TASKS["text2music+codes"].instruction),
        "lyric": lyric_prompt(song),
    }
    said = (too_long(prompt, len(tokenizer.encode_prompt(text))) for prompt, text in texts.items())
    return tuple(sentence for sentence in said if sentence)
