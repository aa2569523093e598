"""From blueprints to audio codes, exactly 5 for a second (spec/planner.md §2.4, §2.5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..blueprint import Blueprint, Fact
from ..blueprint_fields import CHECKS
from ..lm_prompts import (
    codes_prompt,
    facts,
    legacy_codes_prompt,
    legacy_negative_prompt,
    negative_prompt,
    think_block,
    user_text,
)
from ..runtime import Runtime
from ..units import CODE_RATE, CODEBOOK_SIZE, DEFAULT_SECONDS, MAX_SECONDS, MIN_SECONDS, seconds_to_codes
from .ask import with_facts
from .generate import CodesRequest, write_codes
from .limits import unreadable
from .lm import LM
from .sampling import TokenSampling

SHORTEST_SHARE = 0.8  # of the codes, before a natural end may come
_SHORTEST_SECONDS = math.ceil(MIN_SECONDS * CODE_RATE / SHORTEST_SHARE) / CODE_RATE

Prompt = tuple[int, ...]
Codes = tuple[int, ...]


@dataclass(frozen=True)
class CodesOptions:
    """How to write.

    Attributes:
        seed: of the first song; song i is drawn with seed + i.
        guidance: how far the codes are pushed towards the song and away from the negative; 1 = not at all.
        negative: what to push away from; "" = an empty request, as in training.
        natural_end: a song may end where the model ends it, from 0.8 of its length on; its seconds follow.
        legacy: the prompts of before April 2026.

    Raises:
        ValueError: for a seed beyond 64 bits, a guidance that is not a finite number, or a negative that is too long
            or has half a character or a control token in it.
    """

    seed: int = 0
    guidance: float = 2.0
    negative: str = ""
    sampling: TokenSampling = field(default_factory=TokenSampling)
    natural_end: bool = False
    legacy: bool = False

    def __post_init__(self) -> None:
        CHECKS["seed"](self.seed)
        user_text("negative", self.negative)
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance: expected a number such as 2, got {self.guidance}")


def write(
    runtime: Runtime, lm: LM, blueprints: Sequence[Blueprint], options: CodesOptions, after: Codes = ()
) -> tuple[Blueprint, ...]:
    """The songs with new codes; those whose codes are locked keep them.

    With `after` each song goes on from these codes of a sound: the model reads them as its own, behind every prompt,
    and in the think block the length of both together. The songs hold the new codes and their own seconds alone.

    Unset seconds become 60, as everywhere, with the fact "default_seconds": neither the user nor the planner chose.

    The model reads the user's own caption where there is one, and the planner's in the think block.

    Raises:
        ValueError: before anything is written; for songs without caption and lyrics, or with longer ones than the
            decoder can read, for locked fields that would have to be filled, for control tokens in a text, or for a
            natural end that cannot be: of several songs, of a locked length, or of less than 12.6 s; for codes to go
            on from that the codebook does not have, or that are more than 600 s together with a song.
    """
    songs = [_prepare(song) for song in blueprints]
    places = [place for place, song in enumerate(songs) if song.codes is None]
    for place in places:
        if said := unreadable(lm.tokenizer, songs[place]):
            raise ValueError(f"song {place + 1}: {' '.join(said)}")
    if options.natural_end:
        _check_natural_end([songs[place] for place in places])
    _check_after(after, [songs[place] for place in places])
    for length in sorted({songs[place].seconds or 0.0 for place in places}):
        group = [place for place in places if songs[place].seconds == length]
        for place, song in zip(
            group, _write_equal(runtime, lm, [songs[place] for place in group], group, (options, after)), strict=True
        ):
            songs[place] = song
    return tuple(songs)


def lengths(blueprints: Sequence[Blueprint]) -> tuple[float, ...]:
    """How many seconds of each song `write` will write, or keep where its codes are locked.

    Raises:
        ValueError: for songs without caption and lyrics, or with locked fields that would have to be filled.
    """
    return tuple(_prepare(song).length or DEFAULT_SECONDS for song in blueprints)


def _prepare(song: Blueprint) -> Blueprint:
    """With seconds and without codes, unless those are locked."""
    if "codes" in song.locked:
        if song.codes is None:
            raise ValueError("codes: locked, but there are none; unlock them so that they can be written")
        return song
    song.require_complete()
    length = song.length
    free = replace(song, codes=None, codes_seed=None, score=None, filled=song.filled - {"codes"})
    if free.seconds is not None:
        return free
    if "seconds" in song.locked:
        raise ValueError("seconds: locked, but not set, and codes are written for a length; set or unlock them")
    if length is not None and length >= MIN_SECONDS:
        return replace(free, seconds=length)
    return with_facts(replace(free, seconds=DEFAULT_SECONDS), {"default_seconds": True})


def _check_natural_end(songs: Sequence[Blueprint]) -> None:
    """Raises a ValueError unless there is one song at most, and its length may shrink to four fifths."""
    if len(songs) > 1:
        raise ValueError(
            f"natural end: the {len(songs)} songs would get different lengths, and songs of one batch have one; take "
            "the exact end, or one song"
        )
    for song in songs:
        seconds = song.seconds or 0.0
        if "seconds" in song.locked:
            raise ValueError(
                f"natural end: the length of {seconds:g} s is locked, and such an end may shorten it; unlock seconds, "
                "or take the exact end"
            )
        if SHORTEST_SHARE * seconds_to_codes(seconds) < seconds_to_codes(MIN_SECONDS):
            raise ValueError(
                f"natural end: expected {_SHORTEST_SECONDS:g} s or more, so that a song that ends after four fifths "
                f"still has {MIN_SECONDS:g} s; got {seconds:g}. Make the song longer, or take the exact end"
            )


def _check_after(after: Codes, songs: Sequence[Blueprint]) -> None:
    """Raises a ValueError for codes that no song can go on from."""
    if bad := [code for code in after if not 0 <= code < CODEBOOK_SIZE]:
        raise ValueError(f"after: expected codes of 0 to {CODEBOOK_SIZE - 1}, got {bad[0]}")
    kept, new = len(after) / CODE_RATE, max((song.seconds or 0.0 for song in songs), default=0.0)
    if after and kept + new > MAX_SECONDS:
        raise ValueError(
            f"after: {kept:g} s to go on from and {new:g} s to be written are {kept + new:g} s, and the planner knows "
            f"songs of {MAX_SECONDS:g} s at most; let it hear less (context), or write less (seconds)"
        )


def _write_equal(
    runtime: Runtime, lm: LM, chosen: Sequence[Blueprint], places: Sequence[int], how: tuple[CodesOptions, Codes]
) -> list[Blueprint]:
    """The songs that stood at `places`, which have one length, with their codes; `how` is (options, after)."""
    options, after = how
    kept = tuple(lm.vocabulary.code_base + code for code in after)
    seeds = tuple((options.seed + place) % 2**64 for place in places)
    count = seconds_to_codes(chosen[0].seconds or 0.0)
    encode = lm.tokenizer.encode
    request = CodesRequest(
        prompts=tuple((*encode(_prompt(song, options, len(after))), *kept) for song in chosen),
        negative=_negative(chosen, options, lambda text: (*encode(text), *kept)),
        codes=count,
        seeds=seeds,
        guidance=options.guidance,
        sampling=options.sampling,
        natural_end=options.natural_end,
    )
    written = write_codes(runtime, lm, request)
    return [
        with_facts(replace(song, seconds=len(codes) / CODE_RATE), _facts(lm, *how)).fill(codes=codes, codes_seed=seed)
        for song, codes, seed in zip(chosen, written, seeds, strict=True)
    ]


def _prompt(song: Blueprint, options: CodesOptions, kept: int) -> str:
    """What is read before the codes; the duration is that of the `kept` codes and the new ones."""
    build = legacy_codes_prompt if options.legacy else codes_prompt
    duration = int((kept + seconds_to_codes(song.seconds or 0.0)) / CODE_RATE)
    return build(_user_caption(song), song.lyrics, think_block({**facts(song), "duration": duration}))


def _negative(
    songs: Sequence[Blueprint], options: CodesOptions, encode: Callable[[str], Prompt]
) -> Prompt | tuple[Prompt, ...] | None:
    if options.guidance == 1.0:
        return None
    if not options.legacy:
        return encode(negative_prompt(options.negative))
    texts = (legacy_negative_prompt(_user_caption(song), song.lyrics, options.negative) for song in songs)
    return tuple(encode(text) for text in texts)


def _user_caption(song: Blueprint) -> str:
    return song.user_caption if song.is_set("user_caption") else song.caption


def _facts(lm: LM, options: CodesOptions, after: Codes) -> dict[str, Fact]:
    sampling = options.sampling
    continued: dict[str, Fact] = {"codes_after": len(after)} if after else {}
    return {
        "codes_model": lm.name,
        "prompt_format": "legacy" if options.legacy else "trained",
        "cfg_scale": options.guidance,
        "negative_prompt": options.negative,
        "temperature_codes": sampling.temperature,
        "top_p_codes": sampling.top_p,
        "top_k_codes": sampling.top_k,
        "min_p_codes": sampling.min_p,
        **continued,
    }
