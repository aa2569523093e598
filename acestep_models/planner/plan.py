"""From a sentence, or from a blueprint with gaps, to a whole blueprint (spec/planner.md §2.2 to §2.4, §2.9).

What the user set or locked is fixed text of the think block that the model goes on from; it is never overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..blueprint import INSTRUMENTAL, Blueprint, Fact
from ..blueprint_fields import CHECKS
from ..lm_prompts import format_prompt, inspire_prompt, plan_prompt, user_text
from ..prompts import PLANNED_CAPTION_TOKENS, PLANNED_LYRIC_TOKENS
from ..runtime import Runtime
from ..units import MAX_SONGS, MIN_SECONDS
from .ask import Question, ask, cut_facts, said, think_fields, with_facts
from .grammar import GENRE_TOKENS, LYRICS, Outline
from .lm import LM
from .parse import Answer
from .sampling import TokenSampling

_FACTS = ("bpm", "caption", "seconds", "key", "language", "time_signature")
_WORDS = ("caption", "genres")


@dataclass(frozen=True)
class Mode:
    """What a way of planning does.

    Attributes:
        fills: fields that it writes where they are unset.
        rewrites: those that it writes anew where they are set.
        skips: those that the think block of this mode shows only when the model writes them.
    """

    fills: frozenset[str]
    rewrites: frozenset[str] = frozenset()
    skips: frozenset[str] = frozenset()


_TABLE = {
    "simple": Mode(frozenset((*_FACTS, "genres", LYRICS))),
    "format": Mode(frozenset((*_FACTS, "genres", LYRICS)), rewrites=frozenset(("caption", LYRICS))),
    "plan": Mode(frozenset(_FACTS), skips=frozenset(_WORDS)),
    "rewrite": Mode(frozenset(_FACTS), rewrites=frozenset(("caption",)), skips=frozenset(_WORDS)),
    "language": Mode(frozenset(("language",)), skips=frozenset(_WORDS)),
}
MODES = tuple(_TABLE)


@dataclass(frozen=True)
class PlanOptions:
    """How to plan.

    Attributes:
        mode: simple (a sentence becomes a song), format (tidies what the user wrote), plan (fills gaps), rewrite (as
            plan, with a richer caption) or language (fills the language only).
        sentence: what the song shall be; in the other modes only read where there is no caption.
        instrumental: no singing; not for the mode language.
        keep_lyrics: lyrics that are set stay byte for byte, in format mode too.
        songs: 1 to 8.
        different: a plan each, song i from seed + i; else one plan for all from the seed.
        seed: any 64-bit number.
        caption_tokens, genre_tokens, lyric_tokens: where a text is cut if the model does not end it.

    Raises:
        ValueError: for a value out of its range, or wishes that contradict one another.
    """

    mode: str
    sentence: str = ""
    instrumental: bool = False
    keep_lyrics: bool = False
    songs: int = 1
    different: bool = False
    seed: int = 0
    sampling: TokenSampling = field(default_factory=TokenSampling)
    caption_tokens: int = PLANNED_CAPTION_TOKENS
    genre_tokens: int = GENRE_TOKENS
    lyric_tokens: int = PLANNED_LYRIC_TOKENS

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        if not 1 <= self.songs <= MAX_SONGS:
            raise ValueError(f"songs: expected 1 to {MAX_SONGS}, got {self.songs}")
        if self.instrumental and self.mode == "language":
            raise ValueError(
                "instrumental: is on, but the mode language finds the language of lyrics and changes nothing else; "
                "switch it off, or choose another mode"
            )
        CHECKS["seed"](self.seed)
        user_text("sentence", self.sentence)


@dataclass(frozen=True)
class _Run:
    runtime: Runtime
    lm: LM
    options: PlanOptions


_Job = tuple[Blueprint, int]  # a draft and the seed of its plan


def plan(runtime: Runtime, lm: LM, drafts: Sequence[Blueprint], options: PlanOptions) -> tuple[Blueprint, ...]:
    """As many blueprints as `options.songs`, with what the mode fills filled where it was neither set nor locked.

    Songs of different plans have one duration: the first that is set, else the one that song 1 is given. If there is
    nothing to fill, nothing is run and the drafts come back.

    Args:
        drafts: one for all songs, one each, or none for songs out of nothing.

    Raises:
        ValueError: for another number of drafts, contradicting wishes, nothing to plan from, or control tokens in a
            text.
        ACEStepError: if the model writes nothing usable in three attempts.
    """
    run, step = _Run(runtime, lm, options), int(options.different)
    jobs = [
        (_prepare(draft, options), (options.seed + step * place) % 2**64)
        for place, draft in enumerate(_one_each(drafts, options.songs))
    ]
    once = list(dict.fromkeys(jobs))
    planned = dict(zip(once, _plan_jobs(run, once), strict=True))
    return tuple(planned[job] for job in jobs)


def _one_each(drafts: Sequence[Blueprint], songs: int) -> list[Blueprint]:
    drafts = drafts or (Blueprint(),)
    if len(drafts) not in (1, songs):
        raise ValueError(f"songs: {songs} songs need 1 or {songs} blueprints, got {len(drafts)}")
    return list(drafts) * (songs // len(drafts))


def _prepare(draft: Blueprint, options: PlanOptions) -> Blueprint:
    """The draft with the wish for an instrumental song in its lyrics, where the model does not write them."""
    if not options.instrumental:
        return draft
    if draft.is_set(LYRICS) and draft.lyrics.strip() != INSTRUMENTAL:
        raise ValueError(
            f"instrumental: is on, but the blueprint has lyrics ({draft.lyrics.strip()[:40]!r}); switch it off, or "
            "empty the lyrics"
        )
    if options.mode == "simple" or draft.is_set(LYRICS) or LYRICS in draft.locked:
        return draft
    return replace(draft, lyrics=INSTRUMENTAL)


def _plan_jobs(run: _Run, jobs: list[_Job]) -> list[Blueprint]:
    """All at once, unless one of them has to choose the duration of the others."""
    lengths = (draft.length for draft, _ in jobs if draft.length is not None and draft.length >= MIN_SECONDS)
    seconds = next(lengths, None)
    choosing = [place for place, (draft, _) in enumerate(jobs) if "seconds" in _wanted(draft, run.options)]
    if seconds is not None or len(choosing) < 2:
        return _answer_jobs(run, [_with_seconds(run, job, seconds) for job in jobs])
    first = choosing[0]
    song = _answer_jobs(run, [jobs[first]])[0]
    others = [_with_seconds(run, job, song.seconds) for job in (*jobs[:first], *jobs[first + 1 :])]
    planned = _answer_jobs(run, others)
    return [*planned[:first], song, *planned[first:]]


def _with_seconds(run: _Run, job: _Job, seconds: float | None) -> _Job:
    draft, seed = job
    if seconds is None or "seconds" not in _wanted(draft, run.options):
        return job
    return draft.fill(seconds=seconds), seed


def gaps(draft: Blueprint, options: PlanOptions) -> tuple[frozenset[str], frozenset[str]]:
    """The fields that the model writes for this draft, and those that it would write if they were not locked."""
    song = _prepare(draft, options)
    written = _wanted(song, options)
    return written, _wanted(replace(song, locked=frozenset()), options) - written


def _wanted(draft: Blueprint, options: PlanOptions) -> frozenset[str]:
    """The fields that the model writes for this song."""
    mode = _TABLE[options.mode]
    kept = set(draft.locked)
    if draft.is_set(LYRICS) and (options.keep_lyrics or draft.lyrics.strip() == INSTRUMENTAL):
        kept.add(LYRICS)
    if draft.codes is not None:
        kept.add("seconds")
    return frozenset(name for name in mode.fills - kept if name in mode.rewrites or not draft.is_set(name))


def _answer_jobs(run: _Run, jobs: list[_Job]) -> list[Blueprint]:
    """The drafts, filled; those that have no gap as they are."""
    wanted = [_wanted(draft, run.options) for draft, _ in jobs]
    open_jobs = [place for place, names in enumerate(wanted) if names]
    songs = [draft for draft, _ in jobs]
    if not open_jobs:
        return songs
    questions = [_question(run, songs[place], wanted[place]) for place in open_jobs]
    seeds = [jobs[place][1] for place in open_jobs]
    answers = ask(run.runtime, run.lm, questions, seeds, run.options.sampling)
    for place, seed, answer in zip(open_jobs, seeds, answers, strict=True):
        songs[place] = with_facts(_fill(songs[place], wanted[place], answer, run.options), _facts(run, seed))
    return songs


def _question(run: _Run, draft: Blueprint, wanted: frozenset[str]) -> Question:
    options = run.options
    outline = Outline(
        think_fields(draft, wanted, _TABLE[options.mode].skips),
        lyrics=LYRICS in wanted,
        caption_tokens=options.caption_tokens,
        genre_tokens=options.genre_tokens,
        lyric_tokens=options.lyric_tokens,
    )
    return Question(tuple(run.lm.tokenizer.encode(_prompt(draft, options))), outline, wanted)


def _prompt(draft: Blueprint, options: PlanOptions) -> str:
    sentence, caption = options.sentence.strip() and options.sentence, _source(draft, options)
    if options.mode == "simple":
        instrumental = options.instrumental or draft.lyrics.strip() == INSTRUMENTAL
        if draft.is_set(LYRICS) and not instrumental:
            # One prompt is made for a song whose words are there already.
            return format_prompt(sentence or caption, draft.lyrics)
        return inspire_prompt(sentence or caption, instrumental, draft.language)
    if options.mode == "format":
        return format_prompt(caption, draft.lyrics)
    if not caption and not draft.is_set(LYRICS):
        raise ValueError(
            f"mode {options.mode}: there is nothing to plan from; write a caption, lyrics or a sentence, or choose the "
            "mode simple for a random song"
        )
    return plan_prompt(caption, draft.lyrics)


def reads_sentence(draft: Blueprint, options: PlanOptions) -> bool:
    """Whether the sentence of the options is any part of what the song is planned from."""
    has_caption = draft.is_set("user_caption") or draft.is_set("caption")
    return bool(options.sentence.strip()) and (options.mode == "simple" or not has_caption)


def _source(draft: Blueprint, options: PlanOptions) -> str:
    """The user's own words for the caption; "" = none."""
    for text in (draft.user_caption, draft.caption, options.sentence, draft.sentence):
        if text.strip():
            return text
    return ""


def _fill(draft: Blueprint, wanted: frozenset[str], answer: Answer, options: PlanOptions) -> Blueprint:
    """With what the answer says. Words that are there stay whole: no part of a rewriting takes their place."""
    values = said(answer, wanted, options.instrumental)
    facts = cut_facts(answer, values)
    if LYRICS in values and draft.is_set(LYRICS) and (LYRICS in answer.cut or not answer.lyrics):
        del values[LYRICS]
        if told := facts.pop("cut_lyrics", None):
            facts["kept_lyrics"] = told
    emptied: dict[str, Any] = {name: "" for name in values if draft.is_set(name)} | {"score": None}
    if "caption" in values and options.mode != "simple":
        emptied["user_caption"] = _source(draft, options)
    if reads_sentence(draft, options):
        emptied["sentence"] = options.sentence
    return with_facts(replace(draft, **emptied).fill(**values), facts)


def _facts(run: _Run, seed: int) -> dict[str, Fact]:
    sampling = run.options.sampling
    return {
        "model": run.lm.name,
        "mode": run.options.mode,
        "seed": seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
    }
