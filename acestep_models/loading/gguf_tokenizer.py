"""The tokenizer inside of a GGUF file: Qwen3's vocabulary and merges, to which its special tokens are added."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken

from ..qwen3.tokenizer import END_OF_TEXT, Tokenizer, byte_level_bpe
from .gguf_header import read_strings

TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
# Those that follow the vocabulary of Qwen3, from 151643 on; acestep.cpp writes the vocabulary alone, others all.
ADDED = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)


def tokenizer_json(path: Path) -> str | None:
    """The text of a `tokenizer.json` of what the file at `path` has; None where it has no tokenizer.

    Raises:
        ValueError: if tokens are no strings, missing or twice, or merges are of other tokens.
    """
    lists = read_strings(path, (TOKENS, MERGES))
    tokens, merges = lists.get(TOKENS), lists.get(MERGES)
    if not tokens or merges is None:
        return None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [(pair[0], pair[1]) for pair in (merge.split(" ") for merge in merges) if len(pair) == 2]
    if len(vocabulary) != len(tokens) or "" in vocabulary or len(pairs) != len(merges):
        raise ValueError(f"{path}: its tokenizer is damaged: tokens are empty or twice, or merges are no pairs.")
    if any(not vocabulary.keys() >= {first, second, first + second} for first, second in pairs):
        raise ValueError(f"{path}: its tokenizer is damaged: merges are of tokens that it does not have.")
    inner = byte_level_bpe(vocabulary, pairs)
    whole = END_OF_TEXT in vocabulary
    inner.add_tokens([AddedToken(token, normalized=False) for token in ADDED if token in vocabulary or not whole])
    return Tokenizer(inner).to_json()
