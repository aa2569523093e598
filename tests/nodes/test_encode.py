"""EncodeSong: what it refuses before and when it runs, and what it says of a task with a source."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

USED = "the codes of the blueprint are not used"


@pytest.fixture
def encoded(pack, core, loaded):
    """encoded(variant, task, tracks) -> what the node says about a song with codes."""
    song = core("blueprint").Blueprint(caption="calm piano", seconds=10.0, codes=tuple(range(50)))
    wave = torch.randn(1, 2, 250 * 1920, generator=torch.Generator().manual_seed(0)) / 8
    source = core("pipelines.listen").Source(torch.zeros(1, 64, 250), wave)

    def encode(variant, task, tracks=""):
        conditioner = replace(loaded.conditioner, variant=variant)
        heard = None if task == "text2music" else source
        made = pack("encode").EncodeSong.execute(conditioner, (song,), task, tracks, source=heard)
        return made.ui["text"][0].splitlines()

    return encode


@pytest.mark.parametrize(("task", "tracks"), [("extract", "vocals"), ("lego", "drums"), ("complete", "")])
def test_a_turbo_conditioner_refuses_what_only_base_models_learned(encoded, task, tracks):
    with pytest.raises(ValueError, match=f"^{task}: the turbo model cannot do it: load a base model"):
        encoded("turbo", task, tracks)


def test_base_only_tasks_say_who_must_sample_them(encoded):
    said = "\n".join(encoded("base", "lego", "drums"))
    assert "sample this with a base model: sft may try, turbo never learned it" in said
    assert "only SeparateStems, AddTrack and Complete refuse a wrong one" in said
    assert "the file says turbo; chosen base" in said
    assert USED in said.splitlines() and "plan: " not in said
    assert "sample this with" not in "\n".join(encoded("turbo", "cover"))


@pytest.mark.parametrize(
    ("task", "line"),
    [("text2music", "plan: 50 codes"), ("cover", f"{USED}: the source's are"), ("cover-faithful", USED)],
)
def test_whose_codes_are_followed(pack, core, encoded, task, line):
    said = encoded("turbo", task)
    assert line in said and sum("codes" in text for text in said) == 1
    song = core("blueprint").Blueprint(caption="calm piano")
    assert pack("sample").task_codes_line(task, (song,)) == ""


@pytest.mark.parametrize(
    ("task", "tracks", "words"),
    [
        ("lego", "", "tracks: lego takes one track at a time, one of woodwinds, .*, vocals; got none"),
        ("extract", "  ", "tracks: extract takes one track at a time, one of woodwinds, .*, vocals; got none"),
        ("extract", "all", "tracks: extract takes one track at a time, one of .*; got 'all'"),
        ("lego", "drums, bass", "lego takes one track at a time, .* got 'drums, bass'"),
        ("lego", "kazoo", "got 'kazoo'"),
        ("cover", "drums", "cover: takes no track, got drums"),
        ("remix", "", "task: expected one of text2music, cover, .*; got 'remix'"),
        (None, "kazoo", "got 'kazoo'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(pack, encoded, task, tracks, words):
    answer = pack("encode").EncodeSong.validate_inputs(task=task, tracks=tracks)
    with pytest.raises(ValueError, match=words):
        raise ValueError(answer if isinstance(answer, str) else "")
    if task is not None:
        with pytest.raises(ValueError, match=words):
            encoded("base", task, tracks)


@pytest.mark.parametrize(
    ("task", "tracks"),
    [
        ("lego", "Drums"),
        ("complete", ""),
        ("complete", " "),
        ("text2music", "  "),
        ("lego", None),
        (None, "drums, bass"),
    ],
)
def test_what_may_be_right_is_let_through(pack, task, tracks):
    assert pack("encode").EncodeSong.validate_inputs(task=task, tracks=tracks) is True
