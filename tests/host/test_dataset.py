"""Datasets in a real ComfyUI: read from a folder, saved, read again; and what is not clear."""

from __future__ import annotations

import json
import os
import shutil

import prompts as p
import pytest
from sounds import write_songs

BUILD, SAVE = "70", "71"


def build(folder):
    said = {"name": "", "tag": "zorp", "tag_position": "auto", "genre_ratio": -1, "instrumental": "auto"}
    return {BUILD: p.node("ACEStepBuildDataset", folder=folder, **said)}


def building_and_saving(folder, name):
    return {**build(folder), SAVE: p.node("ACEStepSaveDataset", dataset=[BUILD, 0], name=name)}


def shown(run, node=SAVE):
    return run.text(node).splitlines()


@pytest.fixture(scope="module")
def songs(host):
    """Two good songs, one broken, in input/dataset_songs."""
    folder = host.base / "input" / "dataset_songs"
    sound = write_songs(host.base / "dataset_sounds") / "boats.wav"
    for name in ("one/song.wav", "two/été.wav"):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(sound, folder / name)
    (folder / "two" / "été.txt").write_text("caption: soft piano\nbpm: 90\nlyrics: la la", encoding="utf-8")
    (folder / "bad.mp3").write_bytes(b"nonsense" * 99)
    return folder


def test_built_saved_and_built_again(host, songs):
    run = host.run(building_and_saving("dataset_songs", "mine"))
    assert run.ok, run.message
    told = shown(run, BUILD)
    assert told[0] == "dataset dataset_songs: 2 songs, 0.1 minutes"
    assert any(line.startswith("note: left out: bad.mp3: cannot be read as sound") for line in told)
    assert "  the model reads: zorp, soft piano | la la" in told
    assert shown(run) == ["saved: output/acestep_datasets/mine_00001/dataset.json", "songs: 2"]
    file = host.base / "output/acestep_datasets/mine_00001/dataset.json"
    assert [one["bpm"] for one in json.loads(file.read_text(encoding="utf-8"))["samples"]] == [None, 90]
    again = host.run(building_and_saving(str(file), "again"))
    assert again.ok, again.message
    assert shown(again, BUILD)[0] == told[0]


def test_a_changed_text_is_read_again(host, songs):
    prompt = building_and_saving("dataset_songs", "changed")
    assert host.run(prompt).ok
    assert {BUILD, SAVE} <= host.run(prompt).cached
    text = songs / "two" / "été.txt"
    text.write_text("caption: loud piano\nbpm: 90\nlyrics: la la", encoding="utf-8")
    os.utime(text, (1, 1))
    run = host.run(prompt)
    assert "  the model reads: zorp, loud piano | la la" in shown(run, BUILD)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "there is no sound file"),
        (["a.wav", "a.mp3"], "are two songs of one name"),
        (["a.wav"], "no sound file in"),
    ],
)
def test_folders_that_cannot_be_used(host, files, message):
    folder = host.base / "input" / f"unclear_{len(files)}"
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).write_bytes(b"nonsense")
    run = host.run(building_and_saving(folder.name, "unclear"))
    assert not run.ok
    assert message in run.message
    assert not list((host.base / "output" / "acestep_datasets").glob("unclear*"))


def test_a_folder_that_is_not_there(host):
    run = host.run(building_and_saving("gone", "unclear"))
    assert not run.ok
    assert "folder: there is no" in run.message
