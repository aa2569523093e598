"""What the language model may write before the codes: a think block, then lyrics (spec/planner.md §3).

An `Outline` is the text as data: the fields in their order, what the user fixed, where it ends. A `BlockWriter` follows
it for one song. Runs of fixed text, from the end of one free value to the next free choice, are handed out in one
piece and encoded in one piece, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..lm_prompts import think_line
from ..prompts import PLANNED_CAPTION_TOKENS, PLANNED_LYRIC_TOKENS
from .actions import Action, Choose, Force, Mask, Stop
from .vocabulary import DOMAINS, NAMES, Masks, Vocabulary

CAPTION, GENRES, LANGUAGE, LYRICS = "caption", "genres", "language", "lyrics"
GENRE_TOKENS = 64


@dataclass(frozen=True)
class Field:
    """One line of the block: `value` is the user's, None is for the model to write; `wanted` if somebody reads it."""

    name: str
    value: str | int | None = None
    wanted: bool = True


@dataclass(frozen=True)
class Outline:
    """A think block and whether lyrics follow.

    Attributes:
        fields: in the order of NAMES; what is left out is not written.
        lyrics: whether the model goes on behind the block, until it ends its answer. Else the text ends with the
            last wanted value that the model writes.
        caption_tokens, genre_tokens, lyric_tokens: where each is ended if the model does not end it.

    Raises:
        ValueError: for unknown or repeated fields, or in another order, or a text without room.
    """

    fields: tuple[Field, ...]
    lyrics: bool = False
    caption_tokens: int = PLANNED_CAPTION_TOKENS
    genre_tokens: int = GENRE_TOKENS
    lyric_tokens: int = PLANNED_LYRIC_TOKENS

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if min(self.caption_tokens, self.genre_tokens, self.lyric_tokens) < 1:
            raise ValueError("outline: a text needs room for at least 1 token")
        if names != [name for name in NAMES if name in names]:
            raise ValueError(f"outline: expected fields out of {', '.join(NAMES)}, in this order and once; got {names}")

    @property
    def limits(self) -> dict[str, int]:
        """Tokens of each free text at most."""
        return {CAPTION: self.caption_tokens, GENRES: self.genre_tokens, LYRICS: self.lyric_tokens}

    def script(self) -> list[str | Field]:
        """Fixed texts and free fields in turn, up to the end of the block."""
        loose: list[str | Field] = ["<think>\n"]
        for field in self.fields:
            if field.value is None:
                loose += [f"{field.name}:", field]
            else:
                loose.append(f"{think_line(field.name, field.value)}\n")
        loose.append("</think>")
        return _joined(loose)


def _joined(script: list[str | Field]) -> list[str | Field]:
    """Neighbouring texts as one."""
    joined: list[str | Field] = []
    for part in script:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        else:
            joined.append(part)
    return joined


class Part(Protocol):
    """A stretch of the text, in the state of one song; `open` names a free text until the model itself has ended it."""

    open: str

    def ask(self) -> Action | None:
        """What may come next; None = this part is complete. A `Force` counts as written."""

    def take(self, token: int) -> None:
        """The id that was sampled."""


class Fixed:
    """Ids that are known beforehand."""

    open = ""

    def __init__(self, ids: list[int]) -> None:
        self._ids = tuple(ids)
        self.first = ids[0]

    def ask(self) -> Action | None:
        """Everything at once."""
        left, self._ids = self._ids, ()
        return Force(left) if left else None

    def take(self, token: int) -> None:
        """The first id, when the part before ended with it."""
        self._ids = self._ids[1:]


class Listed:
    """One value of a list: a walk down a trie; where there is only one way, nothing is sampled."""

    open = ""

    def __init__(self, vocabulary: Vocabulary, name: str) -> None:
        self._children = vocabulary.tries[name].children
        self._greedy = name == LANGUAGE  # as upstream: the likeliest language, whatever the temperature
        self._node = 0

    def ask(self) -> Action | None:
        """The children of this node."""
        ids = tuple(self._children[self._node])
        if len(ids) != 1:
            return Choose(ids, self._greedy) if ids else None
        self.take(ids[0])
        return Force(ids)

    def take(self, token: int) -> None:
        """One step down."""
        self._node = self._children[self._node][token]


def _first_words(masks: Masks, left: int) -> Tensor:
    """Of a value without a letter or a digit yet; its last token must bring one, or there would be nothing to read."""
    return masks.line if left > 1 else masks.word


class Line:
    """Free text up to the end of the line."""

    def __init__(self, vocabulary: Vocabulary, limit: int) -> None:
        self.open = GENRES
        self._newline, self._masks = vocabulary.newline, vocabulary.masks
        self._left = limit
        self._worded = self._ended = False

    def ask(self) -> Action | None:
        """Text; a line end once there is a word; a line end only, at the limit."""
        if self._ended:
            return None
        if self._left <= 0:
            self._ended = True
            return Force((self._newline,))
        return Mask(self._masks.genres if self._worded else _first_words(self._masks, self._left))

    def take(self, token: int) -> None:
        """One token of text."""
        self._left -= 1
        self._worded = self._worded or token in self._masks.words
        if token in self._masks.line_ends:
            self._ended, self.open = True, ""


class Caption:
    """Free text over several lines, each but the first indented, as YAML folds them.

    At the beginning of a line the model either goes on with a space or begins what follows the caption.
    """

    def __init__(self, vocabulary: Vocabulary, limit: int, follower: Fixed) -> None:
        self.open = CAPTION
        self._newline, self._masks = vocabulary.newline, vocabulary.masks
        self._left, self._follower = limit, follower
        self._worded = self._ended = self._new_line = False

    def ask(self) -> Action | None:
        """Text, or at the limit the end of the line."""
        if self._ended:
            return None
        if self._left <= 0:
            self._ended = True
            return None if self._new_line else Force((self._newline,))
        if self._new_line:
            return Mask(self._masks.next_line[self._follower.first])
        return Mask(self._masks.caption if self._worded else _first_words(self._masks, self._left))

    def take(self, token: int) -> None:
        """One token of text, or the first of what follows."""
        if self._new_line and token == self._follower.first:
            self._follower.take(token)
            self._ended, self.open = True, ""
            return
        self._left -= 1
        self._worded = self._worded or token in self._masks.words
        self._new_line = token in self._masks.line_ends


class Lyrics:
    """Any text until the model ends its answer."""

    def __init__(self, vocabulary: Vocabulary, limit: int) -> None:
        self.open = LYRICS
        self._end, self._mask = vocabulary.im_end, Mask(vocabulary.masks.lyrics)
        self._left = limit

    def ask(self) -> Action | None:
        """Text or the end."""
        return self._mask if self._left > 0 else None

    def take(self, token: int) -> None:
        """One token of text, or the end."""
        self._left -= 1
        if token == self._end:
            self._left, self.open = 0, ""


class BlockWriter:
    """A `Writer` that follows an outline; one song, one writer.

    `most_tokens` is how many ids it writes at most, fixed ones included.
    """

    def __init__(self, vocabulary: Vocabulary, outline: Outline) -> None:
        self._parts = _parts(vocabulary, outline)
        self._limits, self._cut = outline.limits, set[str]()
        self.most_tokens = _most_tokens(vocabulary, outline)

    @property
    def cut(self) -> Mapping[str, int]:
        """Texts that the model did not end itself, and after how many tokens they were ended; once all is written."""
        names = self._cut | {part.open for part in self._parts[:1]}
        return {name: limit for name, limit in self._limits.items() if name in names}

    def next_action(self) -> Action:
        """What may come next; fixed text up to the next free choice comes in one piece."""
        fixed: tuple[int, ...] = ()
        while self._parts:
            action = self._parts[0].ask()
            if action is None:
                self._cut.add(self._parts.pop(0).open)
            elif isinstance(action, Force):
                fixed += action.ids
            else:
                return Force(fixed) if fixed else action
        return Force(fixed) if fixed else Stop()

    def take(self, token: int) -> None:
        """The id that was sampled."""
        self._parts[0].take(token)


def _parts(vocabulary: Vocabulary, outline: Outline) -> list[Part]:
    script = outline.script()
    texts = {
        place: Fixed(vocabulary.tokenizer.encode(part)) for place, part in enumerate(script) if isinstance(part, str)
    }
    parts: list[Part] = [
        texts[place] if isinstance(part, str) else _value(vocabulary, outline, part, texts[place + 1])
        for place, part in enumerate(script)
    ]
    if outline.lyrics:
        return [*parts, Lyrics(vocabulary, outline.lyric_tokens)]
    wanted = [place for place, part in enumerate(script) if isinstance(part, Field) and part.wanted]
    return parts[: wanted[-1] + 1] if wanted else []


def _value(vocabulary: Vocabulary, outline: Outline, field: Field, follower: Fixed) -> Part:
    if field.name in DOMAINS:
        return Listed(vocabulary, field.name)
    limit = outline.limits[field.name]
    return Line(vocabulary, limit) if field.name == GENRES else Caption(vocabulary, limit, follower)


def _most_tokens(vocabulary: Vocabulary, outline: Outline) -> int:
    """Of the whole block, wherever it is ended."""
    lengths = {name: limit + 1 for name, limit in outline.limits.items()}  # the end of the line is forced
    lengths |= {name: trie.longest for name, trie in vocabulary.tries.items()}
    block = sum(
        len(vocabulary.tokenizer.encode(part)) if isinstance(part, str) else lengths[part.name]
        for part in outline.script()
    )
    return block + (outline.lyric_tokens if outline.lyrics else 0)
