"""Audio codes as text, in the three ways that people and programs write them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from .blueprint_fields import check_codes, shown
from .units import CODEBOOK_SIZE

CODE_STYLES = ("numbers", "tokens", "list")
MAX_CODE_CHARACTERS = 2**20

_TOKEN = re.compile(r"<\|audio_code_([0-9]{1,9})\|>")


def parse_codes(text: str) -> tuple[int, ...]:
    """Codes out of text: "1,2,3", "[1, 2, 3]", or "<|audio_code_1|><|audio_code_2|>"; blank text has none.

    Raises:
        ValueError: names what is no code and where it stands.
    """
    if len(text) > MAX_CODE_CHARACTERS:
        raise ValueError(f"codes: {len(text)} characters, at most {MAX_CODE_CHARACTERS} are read")
    spaced = _TOKEN.sub(r" \1 ", text).strip()
    words = spaced.removeprefix("[").removesuffix("]").replace(",", " ").split()
    for place, word in enumerate(words, 1):
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", word) or not 0 <= int(word) < CODEBOOK_SIZE:
            raise ValueError(
                f"codes: expected whole numbers 0 to {CODEBOOK_SIZE - 1} (as 1,2,3 or <|audio_code_1|>...), got "
                f"{shown(word)} as number {place} of {len(words)}"
            )
    return check_codes(map(int, words)) if words else ()


def codes_text(codes: Sequence[int], style: str = "numbers") -> str:
    """Codes as text in one of CODE_STYLES: "1,2", "<|audio_code_1|><|audio_code_2|>" or "[1, 2]".

    Raises:
        ValueError: for another style.
    """
    if style not in CODE_STYLES:
        raise ValueError(f"style: expected one of {', '.join(CODE_STYLES)}, got {style!r}")
    if style == "tokens":
        return "".join(f"<|audio_code_{code}|>" for code in codes)
    return ",".join(map(str, codes)) if style == "numbers" else json.dumps(list(codes))
