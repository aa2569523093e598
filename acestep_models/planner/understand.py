"""From audio codes to a blueprint: what the language model hears in them (spec/planner.md §2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..blueprint import Blueprint, Fact
from ..blueprint_fields import CHECKS
from ..lm_prompts import understand_nothing_prompt, understand_prompt
from ..prompts import PLANNED_CAPTION_TOKENS, PLANNED_LYRIC_TOKENS
from ..runtime import Runtime
from ..units import CODE_RATE, MAX_SECONDS, MIN_SECONDS
from .ask import Question, ask, cut_facts, said, think_fields, with_facts
from .grammar import GENRE_TOKENS, LYRICS, Outline
from .lm import LM
from .parse import FIELDS
from .sampling import TokenSampling
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class UnderstandOptions:
    """How to listen; `caption_tokens` and so on are where a text is cut if the model does not end it.

    Raises:
        ValueError: for a seed beyond 64 bits.
    """

    seed: int = 0
    sampling: TokenSampling = field(default_factory=lambda: TokenSampling(temperature=0.3))
    caption_tokens: int = PLANNED_CAPTION_TOKENS
    genre_tokens: int = GENRE_TOKENS
    lyric_tokens: int = PLANNED_LYRIC_TOKENS

    def __post_init__(self) -> None:
        CHECKS["seed"](self.seed)


def understand(
    runtime: Runtime, lm: LM, codes: Sequence[int], draft: Blueprint, options: UnderstandOptions
) -> Blueprint:
    """The draft with what is heard in its unset and unlocked fields, and with the codes where they fit its length.

    The duration is that of the codes, from 10 s on; below, it stays unset. No codes at all make the model invent a
    song. A score of the draft goes as soon as anything is another.

    Raises:
        ValueError: for codes outside of the codebook or of more than 600 s, or control tokens in a text of the draft.
        ACEStepError: if the model writes nothing usable in three attempts.
    """
    heard: tuple[int, ...] = CHECKS["codes"](codes) if len(codes) else ()
    song = _with_codes(draft, heard)
    wanted, _ = gaps(song, bool(heard))
    if not wanted:
        return _without_old_score(song, draft)
    outline = Outline(
        think_fields(_as_heard(song, heard), wanted),
        lyrics=LYRICS in wanted,
        caption_tokens=options.caption_tokens,
        genre_tokens=options.genre_tokens,
        lyric_tokens=options.lyric_tokens,
    )
    question = Question(understand_ids(lm.vocabulary, heard), outline, wanted)
    answer = ask(runtime, lm, [question], [options.seed], options.sampling)[0]
    values = said(answer, wanted)
    facts: dict[str, Fact] = {
        "model": lm.name,
        "mode": "understand",
        "seed": options.seed,
        "temperature": options.sampling.temperature,
    }
    return with_facts(_without_old_score(song.fill(**values), draft), facts | cut_facts(answer, values))


def gaps(song: Blueprint, heard: bool = True) -> tuple[frozenset[str], frozenset[str]]:
    """The fields that the model writes of what it hears, and those that it would write if they were not locked."""
    names = {*FIELDS.values(), LYRICS} - ({"seconds"} if heard else set())
    unset = frozenset(name for name in names if not song.is_set(name))
    return unset - song.locked, unset & song.locked


def understand_ids(vocabulary: Vocabulary, codes: Sequence[int]) -> tuple[int, ...]:
    """The prompt that asks what the codes are; they go in as ids, never as text."""
    encode = vocabulary.tokenizer.encode
    if not codes:
        return tuple(encode(understand_nothing_prompt()))
    before, behind = understand_prompt()
    return (*encode(before), *vocabulary.codes(codes), *encode(behind))


def _without_old_score(song: Blueprint, draft: Blueprint) -> Blueprint:
    return song if song == draft else replace(song, score=None)


def _with_codes(draft: Blueprint, codes: tuple[int, ...]) -> Blueprint:
    """The draft with the length of the codes and the codes themselves, as far as it has none and they fit."""
    seconds = len(codes) / CODE_RATE
    if draft.codes is not None or not codes:
        return draft
    song = draft.fill(seconds=seconds) if seconds >= MIN_SECONDS else draft
    fits = song.seconds in (None, seconds) and "codes" not in song.locked
    return replace(song, codes=codes) if fits else song


def _as_heard(song: Blueprint, codes: tuple[int, ...]) -> Blueprint:
    """What the think block says: the duration of what is heard, whatever the draft is to become."""
    seconds = len(codes) / CODE_RATE
    known = MIN_SECONDS <= seconds <= MAX_SECONDS
    return replace(song, codes=None, seconds=seconds if known else song.seconds)
