"""What the grammar knows of a tokenizer: control ids, which tokens may stand where, and the values of every field.

It is made once when the planner is loaded and takes less than two seconds; nothing is decoded while a text is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..blueprint import LANGUAGES, MAX_BPM, MIN_BPM, TIME_SIGNATURES
from ..lm_prompts import TAG, think_line
from ..qwen3.tokenizer import Tokenizer
from ..units import MAX_SECONDS, MIN_SECONDS
from .tries import Trie

CODE_BASE = 151_669  # of the published planners; the tokenizer that ComfyUI ships ends right before the codes

# The model was trained on both spellings of sharp and flat.
TRAINED_KEYS = tuple(
    f"{letter}{sign} {mode}" for letter in "ABCDEFG" for sign in ("", "#", "b", "♯", "♭") for mode in ("major", "minor")
)
# Fields whose value is one of a list, by the model's names.
DOMAINS: dict[str, tuple[str, ...]] = {
    "bpm": tuple(str(bpm) for bpm in range(MIN_BPM, MAX_BPM + 1)),
    "duration": tuple(str(seconds) for seconds in range(int(MIN_SECONDS), int(MAX_SECONDS) + 1)),
    "keyscale": TRAINED_KEYS,
    "language": LANGUAGES,
    "timesignature": TIME_SIGNATURES,
}
NAMES = ("bpm", "caption", "duration", "genres", "keyscale", "language", "timesignature")  # as they stand in a block


_TAGS = {
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "end_of_text": "<|endoftext|>",
    "think": "<think>",
    "think_end": "</think>",
    "newline": "\n",
}


def _id(tokenizer: Tokenizer, text: str) -> int:
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        raise ValueError(
            f"the planner's tokenizer has no single token for {text!r}, so it is not one of Qwen3; take the "
            "tokenizer.json that was published with these weights"
        )
    return ids[0]


@dataclass(frozen=True)
class Tags:
    """Ids of the control tokens, and of a lone line end."""

    im_start: int
    im_end: int
    end_of_text: int
    think: int
    think_end: int
    newline: int

    @staticmethod
    def find(tokenizer: Tokenizer) -> Tags:
        """Looked up by name.

        Raises:
            ValueError: names the token that the tokenizer lacks.
        """
        return Tags(**{name: _id(tokenizer, text) for name, text in _TAGS.items()})


@dataclass(frozen=True, eq=False)
class Masks:
    """Which tokens may come next, bool [code_base] on the CPU each.

    Attributes:
        lyrics: any text, or the end of the answer.
        line: text of a value before there is a letter or a digit in it, so no line end yet.
        word: as `line`, with a letter or a digit.
        caption: text of a value, line ends included.
        genres: as `caption`, but of line ends only those of a single line.
        next_line: by the first id of what follows the caption: a line that continues it, or that id.
        line_ends: ids of text after which a new line begins.
        words: ids of text with a letter or a digit.
    """

    lyrics: Tensor
    line: Tensor
    word: Tensor
    caption: Tensor
    genres: Tensor
    next_line: Mapping[int, Tensor]
    line_ends: frozenset[int]
    words: frozenset[int]

    @classmethod
    def of(cls, texts: Sequence[str], tags: Tags, followers: Iterable[int]) -> Masks:
        """Of the text of each id; `followers` are first ids of what may follow a caption."""
        ordinary = _mask(not TAG.fullmatch(text) and text != "" for text in texts)
        value = ordinary & _mask("`" not in text for text in texts)
        has_line_end = _mask("\n" in text for text in texts)
        # A token that goes on behind its line end could begin a line that looks like another field.
        line_end = _mask(text.endswith("\n") and "\n" not in text.rstrip() for text in texts)
        caption = value & (~has_line_end | line_end)
        indented = caption & _mask(text[:1] in (" ", "\t") for text in texts)
        has_letter = _mask(any(map(str.isalnum, text)) for text in texts)
        lyrics = ordinary.clone()
        lyrics[tags.im_end] = True
        return cls(
            lyrics=lyrics,
            line=value & ~has_line_end,
            word=value & ~has_line_end & has_letter,
            caption=caption,
            genres=caption & _mask(text.count("\n") < 2 for text in texts),
            next_line={token: _with(indented, token) for token in followers},
            line_ends=frozenset((ordinary & line_end).nonzero().flatten().tolist()),
            words=frozenset((ordinary & has_letter).nonzero().flatten().tolist()),
        )


def _mask(flags: Iterable[bool]) -> Tensor:
    return torch.tensor(list(flags), dtype=torch.bool)


def _with(mask: Tensor, token: int) -> Tensor:
    found = mask.clone()
    found[token] = True
    return found


@dataclass(frozen=True, eq=False)
class Vocabulary(Tags):
    """One tokenizer as the planner needs it.

    Attributes:
        tokenizer: what texts are read and written with.
        code_base: id of the audio code 0; every id below it is text.
        masks: which tokens may stand where.
        tries: the values of each field of DOMAINS, from the token behind its name to the end of the line.
    """

    tokenizer: Tokenizer
    code_base: int
    masks: Masks
    tries: Mapping[str, Trie]

    @classmethod
    def read(cls, tokenizer: Tokenizer) -> Vocabulary:
        """Everything, from the tokenizer alone.

        Raises:
            ValueError: if it lacks a token that the planner needs.
        """
        tags = Tags.find(tokenizer)
        code = tokenizer.token_id("<|audio_code_0|>")
        code_base = CODE_BASE if code is None else code
        if code is None and tokenizer.size > CODE_BASE:
            raise ValueError(
                f"the planner's tokenizer has {tokenizer.size} tokens but no <|audio_code_0|>: take the tokenizer.json "
                "that was published with these weights"
            )
        texts = [tokenizer.decode([token]) for token in range(min(code_base, tokenizer.size))]
        texts += [""] * (code_base - len(texts))
        followers = {tokenizer.encode(f"{name}:")[0] for name in NAMES} | {tags.think_end}
        tries = {name: value_trie(tokenizer, name, values) for name, values in DOMAINS.items()}
        masks = Masks.of(texts, tags, followers)
        return cls(**asdict(tags), tokenizer=tokenizer, code_base=code_base, masks=masks, tries=tries)

    def codes(self, codes: Iterable[int]) -> list[int]:
        """Audio codes as ids."""
        return [self.code_base + code for code in codes]


def value_trie(tokenizer: Tokenizer, name: str, values: Iterable[str]) -> Trie:
    """The values as they stand behind `name:`, up to the end of the line."""
    return trie_of_lines(tokenizer, name, (think_line(name, value) for value in values))


def trie_of_lines(tokenizer: Tokenizer, name: str, lines: Iterable[str]) -> Trie:
    """The tree of lines that all begin with `name:`, which is left out.

    Raises:
        ValueError: if the tokenizer joins the name and a value into one token.
    """
    head = tokenizer.encode(f"{name}:")
    found = [tokenizer.encode(f"{line}\n") for line in lines]
    if any(ids[: len(head)] != head for ids in found):
        raise ValueError(f"the planner's tokenizer joins {name!r} with its values; it is not one of Qwen3")
    return Trie.of(ids[len(head) :] for ids in found)
