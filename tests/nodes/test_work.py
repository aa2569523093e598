"""What the nodes that work on a sound read and say: tracks, parts, levels, starts."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def work(pack):
    return pack("work")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("vocals\uff0cdrums", ("vocals", "drums")),
        ("Backing vocals and bass & drums", ("backing_vocals", "bass", "drums")),
        ("vocals AND\nfx; brass|synth", ("vocals", "fx", "brass", "synth")),
    ],
)
def test_tracks_are_read_as_people_write_them(work, text, names):
    assert work.read_tracks(text) == names


@pytest.mark.parametrize("text", ["all", "vocals, all", "ALL and drums"])
def test_all_anywhere_is_all(work, core, text):
    assert work.read_tracks(text) == core("tasks").TRACKS


@pytest.mark.parametrize(("text", "meant"), [("vocal, drum", "vocals, drums"), ("guitars", "guitar"), ("kazoo", None)])
def test_a_near_name_is_suggested(work, text, meant):
    found = work.tracks_problem(text)
    assert "expected all, or some of woodwinds" in found
    assert found.endswith(f"did you mean {meant}?") if meant else "did you mean" not in found


@pytest.mark.parametrize(("task", "node"), [("extract", "Separate Stems"), ("lego", "Add Track"), ("complete", "Comp")])
def test_a_refusal_names_the_node(work, loaded, task, node):
    with pytest.raises(ValueError, match=rf"^{node}\w* \({task}\): the turbo model cannot do it"):
        work.check_model(task, loaded.model)


@pytest.mark.parametrize("part", [(-1.0, -1.0), (0.0, 2.0), (-1, 0.2), (5.0, -1.0), (None, 0.0), (5.0, None), (9, 600)])
def test_a_part_that_some_source_has(work, part):
    assert work.check_region(*part) is None


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ((6.0, 2.0), "got 6 to 2 s"),
        ((2.0, 2.0), "got 2 to 2 s"),
        ((-1.0, 0.0), "got 0 to 0 s"),
        ((-2.0, 3.0), "start: expected -1, or 0 to 600 seconds; got -2"),
        ((-0.5, None), "start: expected -1, or 0 to 600"),
        ((0.0, -0.2), "end: expected -1"),
        ((0.0, 601.0), "got 601"),
        ((float("nan"), -1.0), "got nan"),
    ],
)
def test_a_part_that_no_source_has(work, part, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        work.check_region(*part)


def test_stems_over_full_scale_are_named(pack):
    quiet, loud = torch.full((2, 8), 0.5), torch.full((2, 8), -1.25)
    node = pack("stems")
    found = SimpleNamespace(names=("vocals", "drums"), waveforms=(loud, quiet), residual=loud)
    said = node._clipped(found)
    assert said.startswith("over full scale: vocals, residual; ")
    assert all(word in said for word in ("FLAC", "Loudness", "float"))
    assert node._clipped(SimpleNamespace(names=("fx",), waveforms=(quiet,), residual=quiet.sign())) == ""


def test_stems_ask_for_the_source_last(pack, loaded, core):
    node, song = pack("stems")._next_to_make, core("blueprint").Blueprint()
    assert node({"tracks": "fx", "source": None, "blueprint": None}) == ["blueprint"]
    assert node({"tracks": "fx", "source": None, "blueprint": (song,)}) == ["source"]
    assert node({"tracks": "fx", "source": None}) == ["source"]
    assert node({"tracks": "fx", "source": 1, "blueprint": (song,)}) == []
    with pytest.raises(ValueError, match="'kazoo'"):
        node({"tracks": "kazoo", "source": None})
    with pytest.raises(ValueError, match="of one song, got 2"):
        node({"tracks": "fx", "source": None, "blueprint": (song, song)})


def test_a_cover_says_how_many_steps_follow(pack):
    node = pack("cover")
    say = lambda strength, steps: node._followed(node.CoverSettings(strength), steps)  # noqa: E731
    assert say(1.0, 1) == ("follows its audio codes in 1 of 1 step (strength 1)", "")
    text, warning = say(0.1, 8)
    assert text == "follows its audio codes in 0 of 8 steps (strength 0.1)"
    assert warning == "warning: no step follows the source; with 8 steps strength must be 0.13 or more"
    for steps in range(1, 201):
        least = float(say(0.0, steps)[1].split(" must be ")[1].split()[0])
        assert say(least, steps)[1] == "" and 0.0 < least <= 1.0


def test_a_retake_says_what_stays(pack):
    node = pack("retake")
    assert node.unchanged((4, 5), node.Other(4, 0.3)) == "retake_seed is the seed: nothing changes"
    assert node.unchanged((4, 9), node.Other(8, 0.3)) == "song 2: retake_seed is the seed: nothing changes"
    assert node.unchanged((4,), node.Other(8, 0.0)) == "variance is 0: nothing changes"
    assert node.unchanged((4,), node.Other(8, 0.3)) == ""
    defaults = {
        socket.id: socket.default for socket in node.Retake.define_schema().inputs if hasattr(socket, "default")
    }
    assert defaults["seed"] != defaults["retake_seed"] == 1


def test_one_bar_over_all_parts(pack, core):
    told = []
    whole = core("runtime").PlainRuntime()
    callback = pack("host.decoder")._callback(core("runtime").PartRuntime(whole, 2, 3), lambda *a: told.append(a))
    callback(0, None, None, 4)
    callback(3, None, None, 4)
    assert told == [(8, None, None, 12), (11, None, None, 12)]
    show = print
    assert pack("host.decoder")._callback(whole, show) is show
