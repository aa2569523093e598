"""The words that the model reads in training: tag, caption or genre (spec/lora.md §1.3)."""

from __future__ import annotations

import random
from dataclasses import replace

from ...blueprint import INSTRUMENTAL, Blueprint
from .clip import CAPTION, GENRE, Clip, Dataset

__all__ = ["placed", "spoken", "with_instrumental"]

_SEED = 42  # upstream's


def spoken(dataset: Dataset) -> tuple[Blueprint, ...]:
    """For each clip what conditions are made of: the tag in its place, and genre or caption by the genre ratio.

    Exactly floor(clips · ratio / 100) clips have their genre read, the same ones each time; a clip's own
    `prompt_override` wins over that, and an empty genre leaves the caption. Lyrics that nobody gave are
    "[Instrumental]".
    """
    chosen = _by_genre(len(dataset.clips), dataset.genre_ratio)
    return tuple(_spoken(dataset, clip, place in chosen) for place, clip in enumerate(dataset.clips))


def _by_genre(clips: int, ratio: int) -> frozenset[int]:
    """Places of the clips whose genre is read."""
    places = list(range(clips))
    random.Random(_SEED).shuffle(places)
    return frozenset(places[: clips * ratio // 100])


def _spoken(dataset: Dataset, clip: Clip, by_genre: bool) -> Blueprint:
    if clip.prompt_override:
        by_genre = clip.prompt_override == GENRE
    text = clip.genre if by_genre and clip.genre.strip() else getattr(clip.blueprint, CAPTION)
    tag = dataset.tag if clip.tag is None else clip.tag
    lyrics = clip.blueprint.lyrics if clip.blueprint.lyrics.strip() else INSTRUMENTAL
    return replace(clip.blueprint, caption=placed(tag, text, dataset.tag_position), lyrics=lyrics)


def placed(tag: str, text: str, position: str) -> str:
    """The tag before, behind or instead of the text; either alone where the other is empty."""
    if not tag.strip():
        return text
    if position == "replace" or not text.strip():
        return tag
    return f"{tag}, {text}" if position == "prepend" else f"{text}, {tag}"


def with_instrumental(dataset: Dataset, unsung: bool) -> Dataset:
    """The dataset where each song without words is said to have none; or, if not `unsung`, where nobody said so.

    Words that were given stay in either case.
    """
    clips = tuple(_with_lyrics(clip, INSTRUMENTAL if unsung else "") for clip in dataset.clips)
    return replace(dataset, clips=clips)


def _with_lyrics(clip: Clip, lyrics: str) -> Clip:
    words = clip.blueprint.lyrics.strip()
    if words and words != INSTRUMENTAL:
        return clip
    return replace(clip, blueprint=replace(clip.blueprint, lyrics=lyrics))
