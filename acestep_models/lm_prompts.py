"""What the planner's language model reads, byte for byte as in training (spec/planner.md §2).

Every prompt is one chat: a system turn with the instruction, a user turn, and the open turn of the assistant. What a
user typed goes in as it is, but never as a tag that the model would take for a control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .blueprint import INSTRUMENTAL, Blueprint
from .blueprint_fields import MAX_CAPTION_CHARACTERS, check_text

GENERATE = "Generate audio semantic tokens based on the given conditions:"
UNDERSTAND = "Understand the given musical conditions and describe the audio semantics accordingly:"
INSPIRE = "Expand the user's input into a more detailed and specific musical description:"
REWRITE = "Format the user's input into a more detailed and specific musical description:"

NO_INPUT = "NO USER INPUT"  # stands for an empty sentence, caption, negative or source
NO_THOUGHTS = "<think>\n\n</think>"
END_OF_TURN = "<|im_end|>\n"

# Every text that the published tokenizers read as one control token.
TAG = re.compile(
    r"<\|(?:endoftext|im_start|im_end|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end"
    r"|vision_start|vision_end|vision_pad|image_pad|video_pad|fim_prefix|fim_middle|fim_suffix|fim_pad|repo_name"
    r"|file_sep|audio_code_\d+)\|>|</?(?:think|tool_call|tool_response)>"
)

# fmt: off
LANGUAGE_NAMES: dict[str, str] = {
    "ar": "Arabic", "az": "Azerbaijani", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ko": "Korean", "la": "Latin",
    "lt": "Lithuanian", "ms": "Malay", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pa": "Punjabi",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sa": "Sanskrit", "sk": "Slovak",
    "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tl": "Tagalog",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "yue": "Cantonese", "zh": "Chinese",
}
# fmt: on


def plain(name: str, text: str) -> str:
    """`text` of the user, if no part of it would become a control token.

    Raises:
        ValueError: names the field, the tag and its place.
    """
    found = TAG.search(text)
    if found:
        raise ValueError(
            f"{name}: {found.group()!r} at position {found.start()} is a control token of the planner and cannot be "
            f"part of a text; delete it from the {name} (audio codes belong into the field codes)"
        )
    return text


def user_text(name: str, text: str) -> str:
    """`text` that the user typed for the planner, if it can be read whole and be kept in a blueprint.

    Raises:
        TypeError, ValueError: names the field; for what is no text, is too long, or has half a character or a control
            token in it.
    """
    return plain(name, check_text(name, text, MAX_CAPTION_CHARACTERS))


def chat(instruction: str, user: str, assistant: str = "") -> str:
    """System turn, user turn, and the open turn of the assistant with what it already said."""
    return (
        f"<|im_start|>system\n# Instruction\n{instruction}\n\n{END_OF_TURN}"
        f"<|im_start|>user\n{user}{END_OF_TURN}"
        f"<|im_start|>assistant\n{assistant}"
    )


def inspire_prompt(sentence: str, instrumental: bool = False, language: str | None = None) -> str:
    """From one sentence to a whole song; an empty sentence is a random song.

    A `language` that the user asks for is named too: the model writes the caption before it comes to that field.
    """
    query = plain("sentence", sentence) if sentence.strip() else NO_INPUT
    name = LANGUAGE_NAMES.get(language or "")
    if query != NO_INPUT and name and not instrumental:
        query = f"{query.rstrip(' .,;')}, vocals in {name}"
    return chat(INSPIRE, f"{query}\n\ninstrumental: {str(instrumental).lower()}")


def format_prompt(caption: str, lyrics: str) -> str:
    """From what the user wrote to a tidier version of it, with facts."""
    return chat(REWRITE, _song(caption if caption.strip() else NO_INPUT, lyrics))


def plan_prompt(caption: str, lyrics: str) -> str:
    """From caption and lyrics to the facts, as the first of the two phases of a song."""
    return chat(GENERATE, f"{_song(caption, lyrics)}\n")


def codes_prompt(caption: str, lyrics: str, think: str) -> str:
    """From caption, lyrics and facts (a `think_block`) to audio codes, which follow right behind."""
    return f"{plan_prompt(caption, lyrics)}{think}\n\n"


def negative_prompt(negative: str = "") -> str:
    """What guidance leads away from: the bare negative, and no facts."""
    return chat(GENERATE, _negative(negative) or NO_INPUT, f"{NO_THOUGHTS}\n\n")


def legacy_codes_prompt(caption: str, lyrics: str, think: str) -> str:
    """As before April 2026: the assistant's turn is closed before the codes."""
    return f"{codes_prompt(caption, lyrics, think)}{END_OF_TURN}"


def legacy_negative_prompt(caption: str, lyrics: str, negative: str = "") -> str:
    """As before April 2026: the song itself without its facts; a negative replaces the caption only."""
    return legacy_codes_prompt(_negative(negative) or caption, lyrics, NO_THOUGHTS)


def understand_prompt() -> tuple[str, str]:
    """What stands before and behind the ids of the audio codes, which never pass through text."""
    behind = f"{END_OF_TURN}<|im_start|>assistant\n"
    return chat(UNDERSTAND, "").removesuffix(behind), behind


def understand_nothing_prompt() -> str:
    """As `understand_prompt` without any codes: the model invents a song."""
    return chat(UNDERSTAND, NO_INPUT)


def facts(blueprint: Blueprint) -> dict[str, str | int]:
    """What of a blueprint stands in a think block, by the model's names; unset fields and genres do not.

    The duration is that of the song or of its codes, without the fraction.
    """
    found: dict[str, str | int | None] = {
        "bpm": blueprint.bpm,
        "caption": blueprint.caption if blueprint.caption.strip() else None,
        "duration": None if blueprint.length is None else int(blueprint.length),
        "keyscale": blueprint.key,
        "language": blueprint.language,
        "timesignature": blueprint.time_signature,
    }
    return {name: value for name, value in found.items() if value is not None}


def think_line(name: str, value: str | int) -> str:
    """One fact as PyYAML writes it in the training data: quoted where YAML needs it, folded at 80 characters.

    Text of digits becomes a number, as upstream has it.

    Raises:
        ValueError: for a value with a control token in it.
    """
    import yaml

    if plain(name, str(value)).isascii() and str(value).isdigit():
        value = int(value)
    return str(yaml.dump({name: value}, allow_unicode=True)).strip()


def think_block(values: Mapping[str, str | int]) -> str:
    """The facts in alphabetical order between the tags; none give `NO_THOUGHTS`."""
    lines = "\n".join(think_line(name, values[name]) for name in sorted(values))
    return f"<think>\n{lines}\n</think>"


def _song(caption: str, lyrics: str) -> str:
    words = lyrics if lyrics.strip() else INSTRUMENTAL
    return f"# Caption\n{plain('caption', caption)}\n\n# Lyric\n{plain('lyrics', words)}"


def _negative(negative: str) -> str:
    """Empty unless it means something."""
    return "" if negative.strip() in ("", NO_INPUT) else plain("negative", negative)
