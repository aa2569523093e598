"""A question to the planner and its answer: which fields it writes, which are the user's, and what if it fails."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..blueprint import INSTRUMENTAL, Blueprint, Fact
from ..errors import ACEStepError
from ..lm_prompts import facts
from ..runtime import Runtime
from .generate import write_text
from .grammar import GENRES, LYRICS, BlockWriter, Field, Outline
from .lm import LM
from .parse import FIELDS, Answer, read_answer
from .sampling import TokenSampling
from .vocabulary import DOMAINS, NAMES

ATTEMPTS = 3
# What an answer may do without: the model has nothing to say there.
MAY_LACK = frozenset((GENRES, LYRICS))
# Tries of one song must not be those of its neighbours, whose seeds are the next ones.
NEXT_ATTEMPT = 2**32


@dataclass(frozen=True)
class Question:
    """One text that the planner shall write.

    Attributes:
        prompt: ids before it.
        outline: what it may look like.
        wanted: fields of the blueprint that the answer shall have; those of MAY_LACK may turn out empty.
    """

    prompt: tuple[int, ...]
    outline: Outline
    wanted: frozenset[str]

    def missing(self, answer: Answer) -> list[str]:
        """What the answer should have and has not."""
        return sorted(self.wanted - answer.values.keys() - MAY_LACK)


def ask(
    runtime: Runtime, lm: LM, questions: Sequence[Question], seeds: Sequence[int], sampling: TokenSampling
) -> list[Answer]:
    """The answers to the questions, written side by side; each is the same as if it was the only one.

    An answer that lacks something is asked for again with another seed, twice at most.

    Raises:
        ACEStepError: if an answer still lacks something; names the fields.
    """
    answers: dict[int, Answer] = {}
    failed = ""
    for attempt in range(ATTEMPTS):
        places = [place for place in range(len(questions)) if place not in answers]
        if not places:
            break
        asked = [questions[place] for place in places]
        tried = [(seeds[place] + attempt * NEXT_ATTEMPT) % 2**64 for place in places]
        for place, question, answer in zip(places, asked, _ask_once(runtime, lm, asked, tried, sampling), strict=True):
            missing = question.missing(answer)
            if missing:
                failed = f"song {place + 1} lacks {', '.join(missing)} {'; '.join(answer.problems)}".rstrip()
            else:
                answers[place] = answer
    if len(answers) < len(questions):
        raise ACEStepError(
            f"the planner {lm.name} wrote no usable plan in {ATTEMPTS} attempts: {failed}. Choose another seed, set "
            "these fields yourself, or check that the file is a language model of ACE-Step 1.5"
        )
    return [answers[place] for place in range(len(questions))]


def _ask_once(
    runtime: Runtime, lm: LM, questions: Sequence[Question], seeds: Sequence[int], sampling: TokenSampling
) -> list[Answer]:
    vocabulary = lm.vocabulary
    writers = [BlockWriter(vocabulary, question.outline) for question in questions]
    prompts = [question.prompt for question in questions]
    limit = max(writer.most_tokens for writer in writers)
    texts = write_text(runtime, lm, prompts, writers, seeds, sampling, limit)
    return [read_answer(vocabulary, ids, writer.cut) for writer, ids in zip(writers, texts, strict=True)]


def think_fields(song: Blueprint, wanted: Collection[str], skipped: Collection[str] = ()) -> tuple[Field, ...]:
    """The lines of the think block: what is wanted is left to the model, what is set stands as it is.

    What is neither is written by the model so that the block goes on as in training, unless it is free text, locked,
    or among `skipped`.
    """
    given: dict[str, str | int] = {**facts(song), **({"genres": song.genres} if song.is_set("genres") else {})}
    fields = []
    for name in NAMES:
        place = FIELDS[name]
        if place in wanted:
            fields.append(Field(name))
        elif name in given and place not in skipped:
            fields.append(Field(name, given[name]))
        elif name in DOMAINS and place not in song.locked and name not in given:
            fields.append(Field(name, wanted=False))
    return tuple(fields)


def heard_lyrics(answer: Answer, instrumental: bool = False) -> str:
    """The lyrics of an answer; none are an instrumental song, and such a song has section tags at most."""
    lines = (line.strip() for line in answer.lyrics.split("\n"))
    sung = any(line and not (line.startswith("[") and line.endswith("]")) for line in lines)
    return INSTRUMENTAL if not answer.lyrics or (instrumental and sung) else answer.lyrics


def said(answer: Answer, wanted: Collection[str], instrumental: bool = False) -> dict[str, Any]:
    """Values for the wanted fields, by the blueprint's names; what the answer may lack and does is left out."""
    values = {name: answer.values[name] for name in wanted if name in answer.values}
    return values | ({LYRICS: heard_lyrics(answer, instrumental)} if LYRICS in wanted else {})


def with_facts(song: Blueprint, facts: Mapping[str, Fact]) -> Blueprint:
    """The song with these facts about the planner, beside those that it has of other names."""
    return replace(song, lm=tuple((dict(song.lm) | dict(facts)).items()))


def cut_facts(answer: Answer, values: Mapping[str, Any]) -> dict[str, Fact]:
    """Which of these texts were cut, and after how much."""
    return {f"cut_{name}": told for name, told in answer.cut.items() if values.get(name, INSTRUMENTAL) != INSTRUMENTAL}
