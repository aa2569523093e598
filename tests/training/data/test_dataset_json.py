"""Dataset JSON of upstream, FL and Side-Step: read, written, and read again (spec/lora.md §1.1)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from acestep_models.blueprint import Blueprint
from acestep_models.training.data.clip import Clip, Dataset
from acestep_models.training.data.dataset_json import is_manifest, read_dataset, write_dataset
from acestep_models.training.data.open import open_dataset, stamp

# As upstream's builder writes one.
SAMPLE = {
    "id": "0a1b2c3d",
    "audio_path": "C:\\music\\set\\x\\a.wav",
    "filename": "a.wav",
    "caption": "soft piano",
    "genre": "jazz",
    "lyrics": "[Verse]\nla",
    "raw_lyrics": "[Verse]\nla",
    "formatted_lyrics": "",
    "bpm": 92,
    "keyscale": "A minor",
    "timesignature": "4",
    "duration": 1,
    "language": "en",
    "is_instrumental": False,
    "custom_tag": "zx",
    "labeled": True,
    "prompt_override": None,
}
ABOUT = {
    "name": "mine",
    "custom_tag": "zx",
    "tag_position": "replace",
    "created_at": "2026-02-01T00:00:00",
    "num_samples": 1,
    "all_instrumental": True,
    "genre_ratio": 25,
}


def read(make, *samples, about=ABOUT, **files):
    """The dataset of such samples, beside x/a.wav."""
    data = {"metadata": about, "samples": list(samples)} if about is not None else list(samples)
    return read_dataset(make({"x/a.wav": None, "set.json": json.dumps(data), **files}) / "set.json")


def test_upstream_dataset_made_on_windows(make):
    dataset = read(make, SAMPLE)
    assert (dataset.name, dataset.tag, dataset.tag_position, dataset.genre_ratio) == ("mine", "zx", "replace", 25)
    (clip,) = dataset.clips
    assert clip.name == "x/a.wav"
    assert clip.seconds == 1.2
    assert clip.blueprint == Blueprint(
        caption="soft piano", lyrics="[Verse]\nla", bpm=92, key="A minor", time_signature="4", language="en"
    )
    assert (clip.genre, clip.tag, clip.labelled, clip.prompt_override) == ("jazz", None, True, "")
    assert dataset.notes == ()


@pytest.mark.parametrize("path", ["x/a.wav", "x\\a.wav", "./x/a.wav", "/gone/set/x/a.wav", "D:\\s\\x\\a.wav"])
def test_paths_of_all_systems(make, path):
    assert read(make, {"audio_path": path}, about=None).clips[0].name == "x/a.wav"


def test_absolute_paths_elsewhere(make, tmp_path):
    root = make({"one/a.wav": None, "two/a.wav": None}, root="far")
    dataset = read(make, *({"audio_path": str(root / name / "a.wav")} for name in ("one", "two")), about=None)
    assert [clip.name for clip in dataset.clips] == ["one/a.wav", "two/a.wav"]
    assert dataset.name == "set"


@pytest.mark.parametrize(
    ("lyrics", "raw", "flag", "expected"),
    [
        ("[Instrumental]", "", True, "[Instrumental]"),
        ("[Instrumental]", "la", False, "la"),
        ("", "", True, "[Instrumental]"),
        ("", "", False, ""),
        ("la", "lo", False, "la"),
        ("", "la", "", "la"),
    ],
)
def test_lyrics_of_a_sample(make, lyrics, raw, flag, expected):
    sample = {**SAMPLE, "lyrics": lyrics, "raw_lyrics": raw, "is_instrumental": flag}
    assert read(make, sample).clips[0].blueprint.lyrics == expected


def test_tags_of_samples(make):
    for own, expected in (("zx", None), ("own", "own"), ("", None), (None, None)):
        assert read(make, {**SAMPLE, "custom_tag": own}).clips[0].tag == expected


def test_a_song_that_is_gone_or_broken_is_noted(make):
    samples = (SAMPLE, {**SAMPLE, "audio_path": "gone.wav"}, {**SAMPLE, "audio_path": "bad.wav"})
    dataset = read(make, *samples, **{"bad.wav": b"nonsense"})
    assert [clip.name for clip in dataset.clips] == ["x/a.wav"]
    assert dataset.notes == (
        "left out: set.json sample 2: there is no gone.wav",
        "left out: bad.wav: cannot be read as sound (Invalid data found when processing input)",
    )


def test_the_same_song_twice(make):
    with pytest.raises(ValueError, match="set.json sample 1 and set.json sample 2 are the same song, a.wav; remove"):
        read(make, SAMPLE, {"audio_path": "x/a.wav"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "set.json: this is not JSON"),
        ('{"x": 1}', "set.json: expected a dataset"),
        ("[1, 2]", "set.json: expected a dataset"),
        ('{"samples": []}', "set.json: no sound file of it can be read"),
        ('{"samples": [{"caption": "c"}]}', "set.json sample 1: expected an object with an audio_path"),
        ('{"samples": [{"audio_path": "gone.wav"}]}', "no sound file of it can be read. left out: set.json sample 1: "),
    ],
)
def test_files_that_are_no_dataset(make, text, message):
    with pytest.raises(ValueError, match=message):
        read_dataset(make({"set.json": text}) / "set.json")


def test_strange_metadata_is_noted(make):
    dataset = read(make, SAMPLE, about={"tag_position": "middle", "genre_ratio": 400})
    assert (dataset.tag_position, dataset.genre_ratio, dataset.tag, len(dataset.notes)) == ("prepend", 0, "", 2)


def full(folder):
    """Clips that use every field."""
    song = Blueprint(caption=" soft\n“piano” ", lyrics="la\n", bpm=92, key="A minor", time_signature="3", language="de")
    more = {"genre": "jazz", "prompt_override": "genre", "tag": "own", "repeat": 4, "labelled": True}
    a = Clip("x/a.wav", song, path=folder / "x/a.wav", seconds=1.2, **more)
    b = Clip(
        "b.wav", Blueprint(lyrics="[Instrumental]", language="unknown"), path=folder / "b.wav", seconds=1.2, tag=""
    )
    c = Clip("c.wav", Blueprint(), path=folder / "c.wav", seconds=1.2)
    return Dataset("däta", (a, b, c), "zx", "append", 30)


def facts(dataset):
    clips = [replace(clip, read=()).__dict__ for clip in dataset.clips]
    return dataset.name, clips, dataset.tag, dataset.tag_position, dataset.genre_ratio


def test_written_and_read_again(make):
    folder = make({"x/a.wav": None, "b.wav": None, "c.wav": None})
    dataset = full(folder)
    write_dataset(dataset, folder / "set.json")
    assert facts(read_dataset(folder / "set.json")) == facts(dataset)
    data = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    assert set(SAMPLE) <= set(data["samples"][0])
    assert set(ABOUT) == set(data["metadata"])
    assert [one["audio_path"] for one in data["samples"]] == ["x/a.wav", "b.wav", "c.wav"]
    assert [one["custom_tag"] for one in data["samples"]] == ["own", "", "zx"]
    assert data["samples"][0]["duration"] == 1
    assert data["metadata"]["all_instrumental"] is False


def test_written_elsewhere_and_read_again(make, tmp_path):
    dataset = full(make({"x/a.wav": None, "b.wav": None, "c.wav": None}))
    write_dataset(dataset, tmp_path / "far.json")
    (tmp_path / "deep").mkdir()
    write_dataset(dataset, tmp_path / "deep/far.json")
    assert facts(read_dataset(tmp_path / "deep/far.json")) == facts(dataset)


def test_a_failed_write_leaves_what_was_there(make, monkeypatch):
    folder = make({"x/a.wav": None, "b.wav": None, "c.wav": None, "set.json": "old"})

    def full_disk(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(full(folder), folder / "set.json")
    assert (folder / "set.json").read_text() == "old"
    assert not list(folder.glob(".*"))


def test_sounds_in_no_file_cannot_be_written(tmp_path):
    clip = Clip("a", Blueprint(), tensors=Path("a.pt"), seconds=1)
    with pytest.raises(ValueError, match="a: it lies in no sound file"):
        write_dataset(Dataset("d", (clip,)), tmp_path / "set.json")


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(["a.pt"], True), ([{"path": "t\\a.PT"}], True), ([{"audio_path": "a.wav"}], False), ([], False), ("x", False)],
)
def test_manifests_are_known(samples, expected):
    assert is_manifest({"samples": samples}) is expected
    assert not is_manifest([])


def test_whatever_lies_at_a_path(make, tmp_path):
    folder = make({"x/a.wav": None, "x/b.txt": "", "set.json": json.dumps([{"audio_path": "x/a.wav", "bpm": 90}])})
    assert open_dataset(folder / "set.json").clips[0].blueprint.bpm == 90
    assert open_dataset(folder / "x").clips[0].blueprint.bpm is None
    with pytest.raises(ValueError, match="is not there; give a folder of sound files"):
        open_dataset(folder / "gone")
    with pytest.raises(ValueError, match="a.wav is no folder and no .json; give the folder"):
        open_dataset(folder / "x/a.wav")


def test_stamps_change_with_every_file(make):
    far = make({"b.wav": None}, root="far")
    folder = make({"x/a.wav": None, "x/a.txt": "la", "set.json": json.dumps([{"audio_path": str(far / "b.wav")}])})
    before = [stamp(folder), stamp(folder / "set.json")]
    assert before == [stamp(folder), stamp(folder / "set.json")]
    (folder / "x/a.txt").write_text("lo, longer")
    assert stamp(folder) != before[0]
    assert stamp(folder / "set.json") == before[1]
    os.utime(far / "b.wav", (1, 1))
    assert stamp(folder / "set.json") != before[1]
