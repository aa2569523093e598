"""What a trained model writes goes through the grammar, and in the tokens of its training data."""

from __future__ import annotations

import pytest

from acestep_models.planner.actions import Choose, Force, Stop
from acestep_models.planner.grammar import BlockWriter, Field, Outline
from acestep_models.planner.parse import read_answer
from acestep_models.planner.vocabulary import NAMES

ANSWER = (
    "<think>\nbpm: 72\ncaption: A gentle romantic acoustic pop ballad with soft guitar and warm strings, slow and\n"
    "  tender, and a soft male voice that sings close to the ear, 80s reverb, recorded live in\n  a small room.\n"
    "duration: 218\ngenres: acoustic pop, ballad\nkeyscale: D major\nlanguage: bn\ntimesignature: 4\n</think>\n\n"
    "# Lyric\n[Intro - Acoustic Guitar]\n\n[Verse 1]\n\u0986\u09ae\u09bf\n<|im_end|>"
)
PLANNED = {"bpm": 72, "duration": 218, "genres": "acoustic pop, ballad", "keyscale": "D major", "language": "bn"}


def dictate(writer, ids):
    """What a writer hands out when the model would write `ids`; fails where it would not be let to."""
    place = 0
    while not isinstance(action := writer.next_action(), Stop):
        if isinstance(action, Force):
            assert action.ids == tuple(ids[place : place + len(action.ids)])
            place += len(action.ids)
            continue
        token = ids[place]
        assert token in action.ids if isinstance(action, Choose) else action.allowed[token]
        writer.take(token)
        place += 1
    return place


def check_dictation(vocabulary):
    """Whatever of the answer is the user's, the ids are those of the whole text encoded in one piece."""
    ids = vocabulary.tokenizer.encode(ANSWER)
    for fixed in ((), ("bpm",), ("bpm", "duration", "genres"), ("duration", "keyscale", "language"), tuple(PLANNED)):
        fields = tuple(Field(name, PLANNED[name] if name in fixed else None) for name in NAMES)
        assert dictate(BlockWriter(vocabulary, Outline(fields, lyrics=True)), ids) == len(ids)
    answer = read_answer(vocabulary, ids)
    assert answer.values["caption"].endswith("80s reverb, recorded live in a small room.")
    assert answer.values["caption"].count("  ") == 0 and answer.values["seconds"] == 218.0
    assert answer.lyrics == "[Intro - Acoustic Guitar]\n\n[Verse 1]\n\u0986\u09ae\u09bf"


def test_the_answer_of_a_trained_model_goes_through(tiny_vocabulary):
    check_dictation(tiny_vocabulary)


@pytest.mark.host
def test_the_answer_of_a_trained_model_goes_through_in_its_own_tokens(real_vocabulary):
    check_dictation(real_vocabulary)
