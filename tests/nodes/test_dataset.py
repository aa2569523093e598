"""BuildDataset and SaveDataset in the host's folders."""

from __future__ import annotations

import json
import os
import wave
from pathlib import Path

import pytest
import torch

DEFAULTS = {
    "folder": "",
    "name": "",
    "tag": "",
    "tag_position": "auto",
    "genre_ratio": -1,
    "instrumental": "auto",
}


def write_sound(path: Path) -> Path:
    """1.2 s of nothing much."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(range(192)) * 100)
    return path


@pytest.fixture
def node(pack, tmp_path, monkeypatch):
    """nodes.dataset with input and output folders of its own, and songs in input/songs."""
    import folder_paths

    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    for name in ("a.wav", "b.wav"):
        write_sound(tmp_path / "input/songs" / name)
    (tmp_path / "input/songs/a.txt").write_text("caption: soft piano\nlyrics: la\n")
    (tmp_path / "input/songs/b.txt").write_text("[Instrumental]")
    (tmp_path / "input/songs/bad.mp3").write_bytes(b"nonsense" * 9)
    return pack("dataset")


def build(node, **values):
    return node.BuildDataset.execute(**{**DEFAULTS, **values}).result


def save(node, dataset, name="mine", **wires):
    return node.SaveDataset.execute(dataset, name, **wires).result


def test_a_folder_below_input(node, tmp_path):
    dataset, text = build(node, folder="songs", tag="zx", tag_position="append", name="mine")
    assert [(clip.name, clip.blueprint.lyrics) for clip in dataset.clips] == [
        ("a.wav", "la"),
        ("b.wav", "[Instrumental]"),
    ]
    assert text.split("\n") == [
        "dataset mine: 2 songs, 0.0 minutes",
        "tag: 'zx', append",
        "note: left out: bad.mp3: cannot be read as sound (Invalid data found when processing input)",
        "no caption: b.wav",
        "a.wav, 1.2 s",
        "  the model reads: soft piano, zx | la",
        "  caption: a.txt (fields)",
        "  lyrics: a.txt (fields)",
        "b.wav, 1.2 s",
        "  the model reads: zx | [Instrumental]",
        "  lyrics: b.txt (lyrics)",
    ]
    assert build(node, folder=f' "{tmp_path}/input/songs" ')[0].clips[1].name == "b.wav"
    lyrics = [clip.blueprint.lyrics for clip in build(node, folder="songs", instrumental="no")[0].clips]
    assert lyrics == ["la", ""]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "folder: expected a folder of sound files, or sounds on audio; neither is given"),
        ({"folder": "gone"}, "folder: there is no .*gone; write a whole path, or put the folder into"),
        ({"folder": "../output"}, "leads out of .*; write the whole path"),
        ({"folder": "so\0ngs"}, "folder: expected a folder of sound files"),
        ({"folder": "empty"}, r"folder: there is no sound file \(.* in .*empty or below"),
        ({"folder": "songs", "tag_position": "middle"}, "tag_position: expected one of auto, prepend"),
        ({"folder": "songs", "instrumental": "maybe"}, "instrumental: expected one of auto, yes, no"),
        ({"folder": "songs", "genre_ratio": 101}, "genre_ratio: expected a whole number 0 to 100"),
    ],
)
def test_wrong_inputs(node, tmp_path, values, message):
    (tmp_path / "input/empty").mkdir()
    with pytest.raises(ValueError, match=message):
        build(node, **values)


def test_sounds_of_the_graph_beside_a_folder(node):
    audio = {"waveform": torch.randn(2, 1, 9_000), "sample_rate": 8_000}
    dataset, _ = build(node, audio=audio)
    assert (dataset.name, [clip.name for clip in dataset.clips]) == ("songs", ["sound 1", "sound 2"])
    dataset, _ = build(node, audio=audio, folder="songs")
    assert [clip.name for clip in dataset.clips] == ["a.wav", "b.wav", "sound 1", "sound 2"]


def test_silence_of_the_graph_is_noted(node):
    waveform = torch.stack([torch.zeros(1, 9_000), torch.rand(1, 9_000)])
    for folder in ("", "songs"):
        dataset, text = build(node, audio={"waveform": waveform, "sample_rate": 8_000}, folder=folder)
        assert [clip.name for clip in dataset.clips][-1] == "sound 2"
        assert "note: left out: sound 1: 1.125 s of silence" in text.split("\n")


def test_run_again_when_a_file_changed(node, tmp_path):
    ask = lambda: node.BuildDataset.fingerprint_inputs(**{**DEFAULTS, "folder": "songs"})  # noqa: E731
    first = ask()
    assert ask() == first
    os.utime(tmp_path / "input/songs/a.txt", (1, 1))
    second = ask()
    os.utime(tmp_path / "input/songs/b.wav", (1, 1))
    assert len({first, second, ask()}) == 3
    assert "there is no" in node.BuildDataset.fingerprint_inputs(folder="gone")
    assert node.BuildDataset.fingerprint_inputs(folder=None) == ""


def test_saved_and_read_again(node, tmp_path):
    sound = torch.randn(1, 2, 9_000)
    dataset, _ = build(node, folder="songs", tag="zx", audio={"waveform": sound, "sample_rate": 8_000})
    saved, path = save(node, dataset)
    folder = tmp_path / "output/acestep_datasets/mine_00001"
    assert path == str(folder / "dataset.json")
    assert torch.equal(saved.clips[2].path and node.SaveDataset and _read(node, saved.clips[2]), sound[0])
    again, _ = build(node, folder=path)
    assert (again.name, again.tag, len(again.clips)) == (dataset.name, "zx", 3)
    assert [clip.blueprint for clip in again.clips] == [clip.blueprint for clip in dataset.clips]
    assert torch.equal(_read(node, again.clips[2]), sound[0])
    samples = json.loads((folder / "dataset.json").read_text())["samples"]
    assert samples[2]["audio_path"] == "sound/sound_00003.wav"
    assert save(node, dataset)[1] == str(tmp_path / "output/acestep_datasets/mine_00002/dataset.json")
    assert sorted(os.listdir(folder.parent)) == ["mine_00001", "mine_00002"]


def _read(node, clip):
    import importlib

    module = node.__name__.removesuffix(".nodes.dataset") + ".acestep_models.training.data.sound"
    return importlib.import_module(module).clip_sound(clip)[0]


@pytest.mark.parametrize("name", ["", " ", "../x", "a/b", ".x", "x" * 201, "a\nb", "a:b"])
def test_names_that_are_none(node, tmp_path, name):
    assert str(node.SaveDataset.validate_inputs(name=name)).startswith("name: expected")
    with pytest.raises(ValueError, match="name: expected"):
        save(node, build(node, folder="songs")[0], name)
    assert os.listdir(tmp_path / "output") == []
    assert node.SaveDataset.validate_inputs(name=None) is True


def test_a_name_is_checked_as_an_adapters_name_is(node, monkeypatch):
    """The place that is named is that of datasets."""
    told = node.SaveDataset.validate_inputs(name="a/b")
    assert told.endswith("it is put into output/acestep_datasets")
    monkeypatch.setattr(node.dataset_files.save_lora, "check_name", lambda name: f"checked {name}")
    assert node.dataset_files.check_name("x") == "checked x"


def test_a_full_disk_leaves_nothing(node, tmp_path, monkeypatch):
    dataset, _ = build(node, folder="songs")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"name: 'mine' could not be written to .*No space left .*make room"):
        save(node, dataset)
    assert os.listdir(tmp_path / "output/acestep_datasets") == []


def test_a_deleted_folder_is_made_again(node, tmp_path):
    import shutil

    before = node.SaveDataset.fingerprint_inputs(name="again")
    _, path = save(node, build(node, folder="songs")[0], "again")
    assert node.SaveDataset.fingerprint_inputs(name="again") == before
    shutil.rmtree(Path(path).parent)
    assert node.SaveDataset.fingerprint_inputs(name="again") != before


def test_wrong_wires(node, loaded):
    dataset, _ = build(node, folder="songs")
    with pytest.raises(ValueError, match="conditioner and vae: tensors need both"):
        save(node, dataset, conditioner=loaded.conditioner)
    with pytest.raises(TypeError, match="dataset: expected the dataset output of Build Dataset, got str"):
        save(node, "songs")


def test_tensors_are_read_again(node, tmp_path, loaded):
    dataset, _ = build(node, folder="songs")
    _, path = save(node, dataset, conditioner=loaded.conditioner, vae=loaded.vae)
    tensors = tmp_path / "output/acestep_datasets/mine_00001/tensors"
    assert path == str(tensors / "manifest.json")
    for place in (path, str(tensors)):
        again, _ = build(node, folder=place)
        assert [clip.tensors.parent for clip in again.clips] == [tensors] * 2
        assert [clip.blueprint.lyrics for clip in again.clips] == ["la", "[Instrumental]"]
