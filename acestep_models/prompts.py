"""Every string that a model reads is built here and nowhere else, byte for byte as in training (spec/audio.md §4.2)."""

from __future__ import annotations

from .blueprint import INSTRUMENTAL, Blueprint
from .tasks import TASKS

NOT_GIVEN = "N/A"

# What the decoder's text encoder reads of each prompt, its end included.
CAPTION_TOKENS, LYRIC_TOKENS = 256, 2048
# What a planner may write of each, so that all of it is read beside instruction, facts and headings.
PLANNED_CAPTION_TOKENS, PLANNED_LYRIC_TOKENS = CAPTION_TOKENS - 64, LYRIC_TOKENS - 48
_LIMITS = {
    "caption": (CAPTION_TOKENS, "Shorten the caption"),
    "lyric": (LYRIC_TOKENS, "Shorten the lyrics or make the song in two parts"),
}


def too_long(prompt: str, tokens: int) -> str:
    """What to say of a "caption" or "lyric" prompt of so many tokens if the decoder cannot read it; "" if it can."""
    limit, remedy = _LIMITS[prompt]
    if tokens <= limit:
        return ""
    return f"the {prompt} prompt has {tokens} tokens, the model reads at most {limit}. {remedy}."


def metas(blueprint: Blueprint, seconds: float) -> str:
    """The four lines of facts; what is unset reads N/A, the duration loses its fraction."""
    return (
        f"- bpm: {blueprint.bpm or NOT_GIVEN}\n"
        f"- timesignature: {blueprint.time_signature or NOT_GIVEN}\n"
        f"- keyscale: {blueprint.key or NOT_GIVEN}\n"
        f"- duration: {int(seconds)} seconds\n"
    )


def caption_prompt(blueprint: Blueprint, seconds: float, instruction: str = TASKS["text2music"].instruction) -> str:
    """What the text encoder reads of caption, facts and task; `seconds` is the real length of the song."""
    if not instruction.endswith(":"):
        instruction += ":"
    return (
        f"# Instruction\n{instruction}\n\n"
        f"# Caption\n{blueprint.caption}\n\n"
        f"# Metas\n{metas(blueprint, seconds)}<|endoftext|>\n"
    )


def lyric_prompt(blueprint: Blueprint) -> str:
    """What the lyric encoder reads; no lyrics and no language read as instrumental and unknown."""
    lyrics = blueprint.lyrics if blueprint.lyrics.strip() else INSTRUMENTAL
    return f"# Languages\n{blueprint.language or 'unknown'}\n\n# Lyric\n{lyrics}<|endoftext|>"
