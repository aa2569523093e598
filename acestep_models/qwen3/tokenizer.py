"""Text to token ids and back, with the Rust `tokenizers` library alone.

Nothing here adds a token that the caller did not ask for: published tokenizer files differ in whether they append
`<|endoftext|>` by themselves (spec/audio.md §4.1), so post-processors are never run and `encode_prompt` appends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

END_OF_TEXT = "<|endoftext|>"

# How Qwen2 and Qwen3 cut a text into words before the byte-pair merges; digits stay single.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The ids that Qwen3 renamed. The Qwen2.5 folder of older hosts still has `<|img|>` and the like there.
QWEN3_TOKENS: Mapping[int, str] = {
    151665: "<tool_response>",
    151666: "</tool_response>",
    151667: "<think>",
    151668: "</think>",
}


class Tokenizer:
    """Byte-level BPE with the pre-tokenisation and the added tokens of its file.

    Raises:
        ValueError: if the vocabulary lacks `<|endoftext|>`, which ends every prompt of ACE-Step.
    """

    def __init__(self, inner: RustTokenizer) -> None:
        inner.no_truncation()  # published files may carry either; a prompt is never cut or filled silently
        inner.no_padding()
        end_id = inner.token_to_id(END_OF_TEXT)
        if end_id is None:
            raise ValueError(f"the tokenizer has no {END_OF_TEXT} token, so it is not one of Qwen3: {_sample(inner)}")
        self._inner = inner
        self.end_id: int = end_id

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """From the text of a `tokenizer.json`."""
        return cls(_parse(text, "the tokenizer JSON"))

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """From a `tokenizer.json`."""
        return cls(_parse(path.read_text(encoding="utf-8"), str(path)))

    @classmethod
    def from_qwen_folder(cls, folder: Path, replaced: Mapping[int, str] = QWEN3_TOKENS) -> Tokenizer:
        """From `vocab.json`, `merges.txt` and `tokenizer_config.json`, as ComfyUI ships them.

        `replaced` names added tokens that are read under another text than the folder gives; with an empty table the
        ids are those of transformers' Qwen2TokenizerFast on the same folder.

        Raises:
            ValueError: if the added tokens do not follow the vocabulary without a gap.
        """
        vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        inner = byte_level_bpe(vocab, _read_merges(folder / "merges.txt"))
        listed = {int(token_id): entry for token_id, entry in config["added_tokens_decoder"].items()}
        for token_id in sorted(listed):
            _add(inner, token_id, listed[token_id], replaced.get(token_id))
        return cls(inner)

    @classmethod
    def from_source(cls, source: str | Path) -> Tokenizer:
        """From JSON text, the path of a `tokenizer.json`, or a folder as in `from_qwen_folder`."""
        if isinstance(source, str):
            return cls.from_json(source)
        return cls.from_qwen_folder(source) if source.is_dir() else cls.from_file(source)

    @cached_property
    def size(self) -> int:
        """The largest id + 1: how many rows an embedding needs."""
        vocabulary: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
        return max(vocabulary.values()) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of `text` and nothing more.

        Raises:
            ValueError: if `text` holds half of a surrogate pair, which no encoding can express.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 20) : error.start]
            raise ValueError(
                f"the text holds half a character (a lone surrogate) at position {error.start}, "
                f"after {around!r}: delete that character and type it again"
            ) from error
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of `text` and the final `<|endoftext|>` that the condition encoder was trained with."""
        return [*self.encode(text), self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return str(self._inner.decode(list(ids), skip_special_tokens=False))

    def token_id(self, token: str) -> int | None:
        """The id of one token, None if the vocabulary lacks it."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def to_json(self) -> str:
        """The text of a `tokenizer.json` from which `from_json` makes the same tokenizer."""
        return str(self._inner.to_str())


def byte_level_bpe(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> RustTokenizer:
    """Qwen's pipeline around a vocabulary: NFC, words, bytes, merges.

    Mirrors `Qwen2Converter` of transformers, without the post-processor (it changes offsets only).
    """
    inner = RustTokenizer(models.BPE(vocab=dict(vocab), merges=list(merges)))
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return inner


def check_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """Raises a ValueError if the tokenizer can make an id that an embedding of `rows` rows does not have."""
    if tokenizer.size > rows:
        raise ValueError(
            f"the tokenizer has {tokenizer.size} tokens, the embedding only {rows} rows: they belong to different "
            "models. Take the tokenizer that came with these weights (the text encoder's has at most 151669 tokens, "
            "the planner's 217204)."
        )


def _parse(text: str, where: str) -> RustTokenizer:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}): fetch the file again") from error
    if not isinstance(found, dict) or not {"model", "added_tokens"} <= found.keys():
        raise ValueError(f"{where} is JSON, but no tokenizer: it needs the keys 'model' and 'added_tokens'")
    return RustTokenizer.from_str(text)


def _read_merges(path: Path) -> list[tuple[str, str]]:
    pairs = (line.split(" ") for line in path.read_text(encoding="utf-8").split("\n"))
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2 and pair[0] != "#version:"]


def _add(inner: RustTokenizer, token_id: int, entry: Mapping[str, object], name: str | None) -> None:
    content = name or str(entry["content"])
    flags = {key: bool(entry[key]) for key in ("lstrip", "rstrip", "single_word", "normalized")}
    special = bool(entry["special"]) and name is None
    inner.add_tokens([AddedToken(content, special=special, **flags)])
    if inner.token_to_id(content) != token_id:
        raise ValueError(
            f"the added token {content!r} should have the id {token_id}, but the vocabulary gives it "
            f"{inner.token_to_id(content)}: vocab.json and tokenizer_config.json are not of one model"
        )


def _sample(inner: RustTokenizer) -> str:
    names = sorted(inner.get_vocab(with_added_tokens=True))[:3]
    return f"{inner.get_vocab_size()} tokens, among them {names}"
