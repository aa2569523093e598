"""WriteCodes and UnderstandAudio: what they say is true for every song."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

DRAWING = (0.85, 0.9, 0)
LOCKED = ["bpm", "caption", "genres", "key", "language", "lyrics", "time_signature"]


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
def write(pack, core, lm, monkeypatch):
    """write(songs, ...) -> the lines that WriteCodes says; `write.codes` of each song, if not as many as asked for."""

    def codes(runtime, lm, request):
        run.asked += 1
        return [tuple(range(run.codes or request.codes))] * len(request.prompts)

    def run(songs, seed=3, guidance=2.0, negative="", ending="exact"):
        execute = pack("codes").WriteCodes.execute
        made = execute(lm, songs, seed, guidance, negative, *DRAWING, 0.0, ending, "trained")
        return made.ui["text"][0].splitlines()

    run.codes, run.asked = None, 0
    monkeypatch.setattr(core("planner.codes"), "write_codes", codes)
    return run


def test_the_length_is_said_of_every_song(write, song):
    assert write((song(seconds=10),) * 2)[:3] == ["50 codes a song, seed 3, 4", "length: 10 s", "guidance: 2"]
    assert write((song(seconds=10), song(), song(seconds=10)))[:4] == [
        "songs 1, 3: 50 codes a song, seed 3, 5",
        "song 2: 300 codes a song, seed 4",
        "songs 1, 3: length: 10 s",
        "song 2: length: 60 s (auto: neither a plan nor you said how long)",
    ]
    assert "length: 15.4 s (that of its codes)" in write((song(codes=(1,) * 77),))
    write.codes = 55
    assert "length: 11 s (ended by itself, of 12.6 s)" in write((song(seconds=12.6),), ending="natural")


def test_kept_codes_are_said_and_nothing_of_what_was_not_done(write, song):
    locked = song(codes=(5,) * 62, codes_seed=9).lock(["codes"])
    assert write((locked,)) == ["62 codes a song, kept, locked", "length: 12.4 s (that of its codes)"]
    assert not write.asked
    lines = write((locked, song(seconds=12.4)))
    assert lines[:2] == ["song 1: 62 codes a song, kept, locked", "song 2: 62 codes a song, seed 4"]
    assert "guidance: 2" in lines


def test_songs_that_will_not_fit_a_batch_are_said_before_codes_are_written(write, song, caplog, core, monkeypatch):
    said = "songs of different lengths (song 1 10 s, song 2 60 s) do not fit into one batch: "
    real, logged = core("planner.codes").write_codes, []
    monkeypatch.setattr(core("planner.codes"), "write_codes", lambda *a: [logged.append(caplog.text), real(*a)][1])
    with caplog.at_level(logging.WARNING):
        lines = write((song(seconds=10), song()))
    assert any(line.startswith(said) for line in lines) and said in logged[0]


def test_what_the_codes_go_on_from_is_said_and_not_read_in_vain(pack, core, lm, song, monkeypatch):
    """The kept codes reach the planner; a song that keeps its own codes needs none."""
    node, listen, asked = pack("codes"), core("pipelines.listen"), []
    sound = listen.Source(torch.zeros(1, 64, 253), torch.zeros(1, 2, 253 * 1920))
    conditioner = core("pipelines.encode").ConditionerModels(*[None] * 7)
    monkeypatch.setattr(core("pipelines.kept"), "source_codes", lambda *given: tuple(range(given[2].codes)))
    monkeypatch.setattr(
        core("planner.codes"), "write_codes", lambda _, lm, given: asked.append(given) or [(1,) * given.codes]
    )

    def write(songs, **more):
        made = node.WriteCodes.execute(lm, songs, 3, 2.0, "", *DRAWING, 0.0, "exact", "trained", **more)
        return made.ui["text"][0].splitlines()

    more = {"after": sound, "conditioner": conditioner}
    assert "goes on from 50 codes, the last 10 s of after" in write((song(seconds=10),), **more)
    assert "goes on from 20 codes, the last 4 s of after" in write((song(seconds=10),), context=4.0, **more)
    first = lm.vocabulary.code_base
    assert [given.prompts[0][-count:] for given, count in zip(asked, (50, 20), strict=True)] == [
        tuple(range(first, first + 50)), tuple(range(first, first + 20))
    ]  # fmt: skip
    assert not any("goes on" in line for line in write((song(codes=(5,) * 50).lock(["codes"]),), **more))
    with pytest.raises(ValueError, match="conditioner: needed to read the codes of what is on after; connect"):
        write((song(seconds=10),), after=sound)
    with pytest.raises(TypeError, match="after: expected the after output of EncodeSource, got str"):
        write((song(seconds=10),), after="x", conditioner=conditioner)
    assert len(asked) == 2


@pytest.mark.parametrize("negative", ["a" * 4097, "half \ud83c", "<|im_end|>"])
def test_a_negative_that_cannot_be_kept_is_refused_before_anything_is_written(write, song, negative):
    with pytest.raises(ValueError, match="negative: "):
        write((song(seconds=10),), negative=negative)
    assert not write.asked


@pytest.fixture
def hear(pack, core, lm, monkeypatch):
    """hear(drafts, codes) -> the lines of UnderstandAudio for a sound of these codes; the planner hears nothing new."""
    node, parse = pack("codes"), core("planner.understand")
    monkeypatch.setattr(node, "wire", lambda name, value, kind, origin: value)
    monkeypatch.setattr(node, "source_codes", lambda runtime, conditioner, source: source.codes)
    monkeypatch.setattr(node, "understand", lambda runtime, lm, codes, draft, _: parse._with_codes(draft, tuple(codes)))

    def run(drafts, codes=None):
        source = None if codes is None else SimpleNamespace(codes=codes)
        made = node.UnderstandAudio.execute(lm, None, 1, *DRAWING, source, drafts)
        return made.ui["text"][0].splitlines()

    return run


def test_what_of_a_sound_is_not_kept_is_said(hear, song):
    sound = tuple(range(60))
    other = "codes: not kept, for the sound is 12 s long and the song 30 s"
    assert other in hear((song(seconds=30),), sound)
    assert f"song 1: {other}" in hear((song(seconds=30), song()), sound)
    assert "codes: the blueprint had others, which stay" in hear((song(codes=(1,) * 60),), sound)
    assert "codes: locked, so those of the sound are not kept" in hear((song().lock(["codes"]),), sound)
    short = "seconds: unset, for the sound is 2 s long and a song has 10 s or more"
    assert short in hear((song(),), sound[:10]) and short in hear((song(codes=sound[:10]),))
    for draft in (song(), song(seconds=12), song(codes=sound)):
        assert not any(line.startswith(("codes:", "seconds: unset")) for line in hear((draft,), sound))


def test_nothing_to_hear_for_is_said(hear, song):
    (line,) = [line for line in hear((song().lock(LOCKED),), (1,) * 60) if line.startswith("nothing to fill")]
    assert line == (
        "nothing to fill: all that can be heard is set or locked; unlock bpm, key, time_signature, language, genres "
        "to let the planner write them"
    )
    assert not any(line.startswith("nothing") for line in hear((song(),), (1,) * 60))


def test_what_is_no_wire_is_named(pack, lm, song):
    node = pack("codes")
    with pytest.raises(TypeError, match="lm: expected the lm output of Load LM, got NoneType"):
        node.WriteCodes.execute(None, (song(),), 0, 2.0, "", *DRAWING, 0.0, "exact", "trained")
    with pytest.raises(TypeError, match="blueprint: expected songs on paper"):
        node.WriteCodes.execute(lm, None, 0, 2.0, "", *DRAWING, 0.0, "exact", "trained")
    with pytest.raises(TypeError, match="conditioner: expected the conditioner output of Load DiT, got str"):
        node.UnderstandAudio.execute(lm, "x", 1, *DRAWING)
