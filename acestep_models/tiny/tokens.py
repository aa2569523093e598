"""A small byte-level tokenizer: every text encodes, the words of our prompts are single tokens (spec/planner.md §10).

The merges are trained here, in a few lines, so that every version of `tokenizers` gives the same ids.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as RustTokenizer

from ..qwen3.tokenizer import byte_level_bpe
from ..units import CODEBOOK_SIZE

END_OF_TEXT = "<|endoftext|>"
SPECIAL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")

# Each becomes one token, as it stands and with a space before.
WORDS = """
 # Instruction Caption Metas Languages Lyric Fill the audio semantic mask based on given conditions bpm timesignature
 keyscale duration seconds caption genres language unknown major minor Instrumental verse chorus bridge intro outro
 system user assistant Generate tokens and with of for in a to song music beat drums bass guitar piano vocals voice
 synth strings electronic acoustic ambient jazz rock pop folk warm bright dark slow fast soft female male night light
 love heart you me my your we all world time day th he in er an re nd en at ou ed ha or it is hi es ng st ar te se le
 ve al ri ro ll ing ent
""".split()
ENDINGS = (".\n", "\n\n", ":\n", "]\n")


def _byte_letters() -> tuple[str, ...]:
    """GPT-2's printable letter for each byte: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


BYTE_LETTERS = _byte_letters()


def text_tokenizer() -> RustTokenizer:
    """The text encoder's; like the published one it appends `<|endoftext|>` by itself (spec/audio.md §4.1)."""
    tokenizer = _base()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    return tokenizer


def planner_json(codes: int = CODEBOOK_SIZE) -> str:
    """The planner's `tokenizer.json`: chat tokens, then the audio codes, contiguous and last.

    The codes are written into the JSON: adding 64 000 tokens one by one takes older `tokenizers` over ten seconds.
    """
    tokenizer = _base()
    first, flags = tokenizer.get_vocab_size(), ("single_word", "lstrip", "rstrip", "normalized")
    plain = dict.fromkeys(flags, False)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] += [
        {"id": first + code, "content": f"<|audio_code_{code}|>", **plain, "special": True} for code in range(codes)
    ]
    return json.dumps(data, ensure_ascii=False)


def planner_rows(codes: int = CODEBOOK_SIZE) -> int:
    """Rows that an embedding for `planner_json` needs."""
    return int(_base().get_vocab_size()) + codes


def _base() -> RustTokenizer:
    merges = train((*ENDINGS, *WORDS, *(f" {word}" for word in WORDS)))
    vocab = {letter: number for number, letter in enumerate(BYTE_LETTERS)}
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    tokenizer = byte_level_bpe(vocab, merges)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in THINK])
    return tokenizer


def train(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges that make one token of each word: the commonest pair first, of equal ones the first by name."""
    spelled = [[BYTE_LETTERS[byte] for byte in word.encode()] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in spelled for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merge(word, best) for word in spelled]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for letters in word:
        if out and (out[-1], letters) == pair:
            out[-1] += letters
        else:
            out.append(letters)
    return out
