"""From what the language model wrote to fields of a blueprint (spec/planner.md §2.8). Nothing that it writes raises."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..blueprint_fields import CHECKS, MAX_CAPTION_CHARACTERS, MAX_GENRE_CHARACTERS, MAX_LYRIC_CHARACTERS
from ..lm_prompts import TAG
from .grammar import LYRICS
from .vocabulary import Vocabulary

# The model's name -> the blueprint's.
FIELDS = {
    "bpm": "bpm",
    "caption": "caption",
    "duration": "seconds",
    "genres": "genres",
    "keyscale": "key",
    "language": "language",
    "timesignature": "time_signature",
}

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
_SINGLE_QUOTED = re.compile(r"'(?:[^']|'')*'")
_DOUBLE_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BLOCK_STYLE = re.compile(r"[|>][+-]?[ \t]*\n")
_LYRIC_HEADER = re.compile(r"\s*(?:#\s*Languages?[ \t]*\n[^#]{0,50})?#\s*Lyrics?[ \t]*(?:\n|$)", re.IGNORECASE)
_UNSET = ("", "N/A", "null", "~")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")


@dataclass(frozen=True)
class Answer:
    """What was read.

    Attributes:
        values: by the blueprint's names, each one legal; what is missing was not said, or not legally.
        lyrics: the text behind the think block; "" = none.
        problems: what was said but is not legal, for people to read.
        cut: texts that the model did not come to the end of -> after how much they were cut; they end with a whole
            line, sentence or word.
    """

    values: Mapping[str, Any]
    lyrics: str
    problems: tuple[str, ...]
    cut: Mapping[str, str] = field(default_factory=dict)


def read_answer(vocabulary: Vocabulary, ids: Sequence[int], cut: Mapping[str, int] | None = None) -> Answer:
    """What a planner wrote behind its prompt; tags are told by their ids, never by their spelling.

    Args:
        cut: texts that were ended before the model ended them -> their tokens.
    """
    told = {name: f"{tokens} tokens" for name, tokens in (cut or {}).items()}
    start = ids.index(vocabulary.think) + 1 if vocabulary.think in ids else 0
    end = ids.index(vocabulary.think_end) if vocabulary.think_end in ids else len(ids)
    decode = vocabulary.tokenizer.decode
    values, problems = read_block(decode(ids[start:end]), told)
    lyrics = read_lyrics(decode(ids[end + 1 :]), LYRICS in told)
    if len(lyrics) > MAX_LYRIC_CHARACTERS:
        told[LYRICS] = f"{MAX_LYRIC_CHARACTERS} characters"
    return Answer(values, _cut(lyrics, "\n", MAX_LYRIC_CHARACTERS), problems, told)


def read_block(text: str, cut: Container[str] = ()) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The legal values of a think block without its tags, and what is wrong with the others."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, raw in split_fields(text).items():
        place, value = FIELDS.get(name), clean(_unquote_cut(raw) if name in cut else unquote(raw)).strip()
        if place is None or value in _UNSET:
            continue
        try:
            shaped = _SHAPES.get(place, str)(value)
            values[place] = CHECKS[place](_ENDS[name](shaped) if name in cut else shaped)
        except ValueError as error:
            problems.append(str(error))
    return values, tuple(problems)


def split_fields(text: str) -> dict[str, str]:
    """Lines to fields: one that is not indented and has a colon begins a field, indented ones go on with it."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        if line[:1] in (" ", "\t"):
            if name:
                fields[name] += f"\n{line}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value
    return fields


def unquote(value: str) -> str:
    """A YAML scalar without its quotes or its block mark; what only looks quoted stays as it is."""
    text = value.strip()
    if _SINGLE_QUOTED.fullmatch(text):
        return text[1:-1].replace("''", "'")
    if _DOUBLE_QUOTED.fullmatch(text):
        return _unescape(text)
    return _BLOCK_STYLE.sub("", text, count=1) if _BLOCK_STYLE.match(text) else text


def _unquote_cut(value: str) -> str:
    """As `unquote`; of a value that was cut the closing quote may be missing."""
    text = value.strip()
    whole = text + text[0] if text.startswith(("'", '"')) else text
    found = unquote(whole)
    return found if found.strip() and found != whole else unquote(text)


def _unescape(text: str) -> str:
    import yaml

    try:
        return str(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, OverflowError):  # the last two: an escape beyond Unicode
        return text


def clean(text: str) -> str:
    """Without control tokens that were spelled out, control characters and broken letters."""
    text = _NOT_TEXT.sub("", text.replace("\r\n", "\n"))
    while TAG.search(text):
        text = TAG.sub("", text)
    return text


def read_lyrics(text: str, cut: bool = False) -> str:
    """What stands behind a think block, without its header; of a `cut` text the whole lines only."""
    words = clean(text).lstrip()
    header = _LYRIC_HEADER.match(words)
    words = words[header.end() :] if header else words
    return _whole_lines(words) if cut else words.strip()


def _whole_lines(text: str) -> str:
    """Without a last line that has no end; of a single line the whole words."""
    lines, _, last = text.lstrip().rpartition("\n")
    return lines.rstrip() or last.rpartition(" ")[0].rstrip() or last


def _whole_sentences(text: str) -> str:
    """Up to the last end of a sentence if that leaves half of the text, else without its last word."""
    end = max((found.end() for found in _SENTENCE_END.finditer(text)), default=0)
    return text[:end] if 2 * end >= len(text) else text.rpartition(" ")[0].rstrip(" ,;:-") or text


def _whole_items(text: str) -> str:
    """Without the last item of a list, or the last word."""
    return text.rpartition(",")[0].rstrip() or text.rpartition(" ")[0].rstrip() or text


def _cut(text: str, separator: str, limit: int) -> str:
    """At most `limit` characters, cut at a separator where there is one."""
    if len(text) <= limit:
        return text
    return text[: limit + 1].rpartition(separator)[0].rstrip() or text[:limit]


def _one_line(limit: int) -> Callable[[str], str]:
    return lambda text: _cut(" ".join(text.split()), " ", limit)


def _whole(name: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise ValueError(f"{name}: expected a whole number, got {text[:60]!r}")
        return int(text)

    return read


_SHAPES: dict[str, Callable[[str], Any]] = {
    "bpm": _whole("bpm"),
    "seconds": _whole("duration"),
    "caption": _one_line(MAX_CAPTION_CHARACTERS),
    "genres": _one_line(MAX_GENRE_CHARACTERS),
}
# How a text that was cut ends.
_ENDS: dict[str, Callable[[str], str]] = {"caption": _whole_sentences, "genres": _whole_items}
