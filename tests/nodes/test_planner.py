"""PlanSong: wishes that contradict, wishes without effect, and what comes over a wire."""

from __future__ import annotations

import inspect
import logging
from dataclasses import replace

import pytest

WISHES = {
    "mode": "plan", "sentence": "", "instrumental": False, "seconds": -1.0, "language": "auto", "keep_lyrics": False,
    "songs": 1, "different_plans": False, "seed": 1, "temperature": 0.85, "top_p": 0.9, "top_k": 0,
}  # fmt: skip
FACTS = {"bpm": 90, "key": "C major", "time_signature": "4", "seconds": 10.0, "language": "en"}


@pytest.fixture
def song(core):
    """song(...) is a blueprint."""
    return lambda **fields: core("blueprint").Blueprint(**{"caption": "calm piano", "lyrics": "la", **fields})


@pytest.fixture
def lm(core):
    """A planner that can count tokens and do nothing else."""
    tokenizer = core("qwen3.tokenizer").Tokenizer.from_json(core("tiny.tokens").planner_json(64))
    return core("planner.lm").LM(None, tokenizer, "tiny")


@pytest.fixture
def run(pack, lm, monkeypatch):
    """run(drafts, wishes) -> the lines that PlanSong says; the planner itself is not run."""
    node = pack("planner")
    monkeypatch.setattr(node, "plan", lambda runtime, lm, drafts, options: tuple(drafts))

    def execute(drafts, **wishes):
        made = node.PlanSong.execute(lm, **{**WISHES, **wishes}, blueprint=drafts)
        return made.ui["text"][0].splitlines()

    return execute


def test_another_length_than_that_of_the_codes_is_an_error(run, song):
    draft = song(codes=(1,) * 60).lock(["codes"])
    with pytest.raises(ValueError, match=r"seconds: 20 on this node, but the codes of the blueprint are 12 s; .*Edit"):
        run((draft,), seconds=20.0)
    assert "seconds: 12 (yours)" in run((draft,), seconds=12.0)


@pytest.mark.parametrize("sentence", ["a" * 4097, "half \ud83c", "</think>"])
def test_a_sentence_that_cannot_be_kept_is_refused_before_anything_is_written(run, song, sentence):
    with pytest.raises(ValueError, match="sentence: "):
        run((song(),), mode="simple", sentence=sentence)


def test_a_sentence_that_is_not_read_is_said(run, song):
    said = "the sentence is not used: the mode plan reads the caption of the blueprint"
    assert said in run((song(),), sentence="a waltz")
    assert f"song 2: {said}" in run((song(caption=""), song()), sentence="a waltz")
    for draft, mode in ((song(), "simple"), (song(caption=""), "plan")):
        assert not any("not used" in line for line in run((draft,), mode=mode, sentence="a waltz"))


def test_nothing_to_fill_is_said_and_what_to_unlock(run, song):
    full = song(**FACTS)
    lines = run((full,), sentence="a waltz")
    assert (
        "nothing to fill: all that the mode plan writes is set; empty some of it to let the planner write it" in lines
    )
    assert "the sentence is not used: there is nothing to fill" in lines
    locked = replace(full, bpm=None, key=None).lock(["bpm", "key", "caption"])
    assert (
        "nothing to fill: all that the mode plan writes is set or locked; unlock bpm, key to let the planner write them"
    ) in run((locked,))
    assert not any("nothing to fill" in line for line in run((song(),)))


def test_a_locked_caption_is_not_rewritten(run, song):
    said = "caption: locked, so not rewritten; unlock to have it rewritten"
    assert said in run((song().lock(["caption"]),), mode="rewrite")
    assert said not in run((song(),), mode="rewrite")
    full = song(**FACTS).lock(["caption"])
    assert any(
        line.startswith("nothing to fill: ") and "unlock caption" in line for line in run((full,), mode="rewrite")
    )


def test_songs_that_will_not_fit_a_batch_are_said_before(run, song, caplog):
    drafts = (song(seconds=10), song(seconds=20))
    with caplog.at_level(logging.WARNING):
        lines = run(drafts)
    said = "songs of different lengths (song 1 10 s, song 2 20 s) do not fit into one batch: "
    assert any(line.startswith(said) for line in lines) and said in caplog.text
    assert not any("different lengths" in line for line in run((song(seconds=10), song())))


@pytest.mark.parametrize(
    ("given", "blueprint", "message"),
    [
        (None, None, "lm: expected the lm output of Load LM, got NoneType"),
        ("x", None, "lm: expected the lm output of Load LM, got str"),
        (..., "x", "blueprint: expected songs on paper .*got 'x'"),
    ],
)
def test_what_is_no_wire_is_named(pack, lm, given, blueprint, message):
    given = lm if given is ... else given
    with pytest.raises(TypeError, match=message):
        pack("planner").PlanSong.execute(given, **WISHES, blueprint=blueprint)


def test_a_complaint_is_made_once(pack):
    """The host repeats it for every input that is named."""
    validate = pack("planner").PlanSong.validate_inputs
    assert list(inspect.signature(validate).parameters) == ["seconds"]
    assert validate(seconds=5.0).startswith("seconds: expected 10 to 600")
    assert validate(seconds=-1.0) is True and validate(seconds=None) is True


def test_seed_tooltips_say_what_each_node_does(pack):
    def tip(module, name):
        return next(one.tooltip for one in getattr(pack(module), name).define_schema().inputs if one.id == "seed")

    assert "With different_plans song 2 takes seed + 1" in tip("planner", "PlanSong")
    assert "Song 2 of a batch takes seed + 1" in tip("codes", "WriteCodes")
    assert "this one seed" in tip("codes", "UnderstandAudio") and "+ 1" not in tip("codes", "UnderstandAudio")


def test_a_temperature_ends_where_the_widget_does(run, song):
    with pytest.raises(ValueError, match="temperature must be between 0 and 2, got nan"):
        run((song(),), temperature=float("nan"))
