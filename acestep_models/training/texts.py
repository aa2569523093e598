"""Whether the model can read what is said of the songs, known before the first of them is heard."""

from __future__ import annotations

from collections.abc import Sequence

from ..blueprint import Blueprint
from ..prompts import CAPTION_TOKENS, LYRIC_TOKENS, caption_prompt, lyric_prompt
from ..qwen3.tokenizer import Tokenizer
from ..tasks import instruction
from ..units import FRAME_RATE, frames_to_seconds
from .data.clip import Dataset
from .examples import FRAME_STEP
from .song import PrepareOptions


def said_seconds(dataset: Dataset, wish: PrepareOptions) -> list[float]:
    """How long each clip is said to be, as far as its file's header knows."""
    frames = [
        int(min(clip.seconds, wish.longest_seconds) * FRAME_RATE) // FRAME_STEP * FRAME_STEP for clip in dataset.clips
    ]
    most = wish.crop_frames if wish.duration == "crop" else max(frames)
    return [frames_to_seconds(min(count, most)) for count in frames]


def check_texts(
    tokenizer: Tokenizer,
    dataset: Dataset,
    words: Sequence[Blueprint],
    seconds: Sequence[float],
    *,
    hinted: bool,
) -> None:
    """Pass if the text encoder can read the words of every clip; clips that come as tensors have been read.

    Args:
        words: of each clip, as `captions.spoken` gives them.
        seconds: how long each is said to be.
        hinted: whether it is read with the instruction of a song with codes too.

    Raises:
        ValueError: names each song with its text that is too long, how long that is and may be.
    """
    sentences = [instruction(task) for task in ("text2music", "text2music+codes")[: 1 + hinted]]
    wrong = []
    for clip, song, length in zip(dataset.clips, words, seconds, strict=True):
        if clip.tensors is not None:
            continue
        caption = max(len(tokenizer.encode_prompt(caption_prompt(song, length, one))) for one in sentences)
        lyrics = len(tokenizer.encode_prompt(lyric_prompt(song)))
        if caption > CAPTION_TOKENS:
            wrong.append(f"{clip.name}: caption, with tag and facts: {caption} tokens, at most {CAPTION_TOKENS}")
        if lyrics > LYRIC_TOKENS:
            wrong.append(f"{clip.name}: lyrics: {lyrics} tokens, at most {LYRIC_TOKENS}")
    if wrong:
        raise ValueError(
            f"dataset {dataset.name}: texts are longer than the model reads, so nothing was begun:\n"
            + "\n".join(wrong)
            + "\nShorten them, or cut those songs into parts with lyrics of their own."
        )
