"""Every string that a model reads is built here and nowhere else, byte for byte as in training (spec/audio.md §4.2)."""

from __future__ import annotations

from .blueprint import INSTRUMENTAL, Blueprint
from .tasks import TASKS

NOT_GIVEN = "N/A"


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
