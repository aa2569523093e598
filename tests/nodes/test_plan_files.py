"""Blueprint files in the host's folders: listed, read, saved once, and never outside."""

from __future__ import annotations

import os
import threading

import pytest


@pytest.fixture
def files(pack, tmp_path, monkeypatch):
    """nodes.host.plan_files with input and output folders of its own."""
    import folder_paths

    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return pack("host.plan_files")


def test_the_list_is_input_and_saved_ones(files, tmp_path):
    for name in ("b.json", "a/c.JSON", "a/b/d.json", "a/b/c/too_deep.json", ".hidden/e.json", "x.txt"):
        (tmp_path / "input" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "input" / name).write_text("{}")
    files.save_plan_file("blueprints/song", "{}")
    saved = "blueprints/song_00001_.json [output]"
    assert files.plan_names() == ["a/b/d.json", "a/c.JSON", "b.json", saved]
    assert files.plan_path(saved) == tmp_path / "output/blueprints/song_00001_.json"
    assert files.read_plan_file("b.json") == "{}"


def test_folders_that_are_not_there_list_nothing(files, tmp_path):
    (tmp_path / "input").rmdir()
    assert files.plan_names() == []


OUTSIDE = ("../x.json", "a/../../x.json", "/etc/x.json", "../x.json [output]", "b.txt", "x\0.json", "", "../b/x.json")


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(files, tmp_path, name):
    for place in ("x.json", "b/x.json"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("{}")
    with pytest.raises(ValueError, match="file: expected a .json file inside of"):
        files.plan_path(name)


def test_what_cannot_be_read_says_why(files, tmp_path):
    with pytest.raises(ValueError, match="'gone.json' is not there"):
        files.plan_path("gone.json")
    (tmp_path / "input/latin.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="latin.json is not UTF-8 text"):
        files.read_plan_file("latin.json")
    with (tmp_path / "input/big.json").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ValueError, match="big.json is larger than"):
        files.read_plan_file("big.json")


def test_saves_count_up_and_replace_nothing(files, tmp_path):
    paths = [files.save_plan_file("take", text) for text in ("one", "two é")]
    assert [path.name for path in paths] == ["take_00001_.json", "take_00002_.json"]
    assert [path.read_text(encoding="utf-8") for path in paths] == ["one", "two é"]
    assert sorted(os.listdir(tmp_path / "output")) == ["take_00001_.json", "take_00002_.json"]


def test_saves_at_the_same_time_get_names_of_their_own(files, tmp_path):
    threads = [threading.Thread(target=files.save_plan_file, args=("song", f"text {k}")) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = {path.read_text() for path in (tmp_path / "output").iterdir()}
    assert texts == {f"text {k}" for k in range(16)}


def test_a_failed_save_leaves_nothing(files, tmp_path, monkeypatch):
    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        files.save_plan_file("song", "text")
    assert os.listdir(tmp_path / "output") == []


@pytest.mark.parametrize("prefix", ["../song", "/tmp/song", "a/../../song", "", " ", ".", "..", "so\nng", "so\0ng"])
def test_prefixes_that_lead_out_are_refused(files, tmp_path, prefix):
    with pytest.raises(ValueError, match="filename_prefix: expected a name such as blueprints/song"):
        files.save_plan_file(prefix, "{}")
    assert os.listdir(tmp_path / "output") == []


@pytest.mark.parametrize(
    "prefix", ["n" * 300, "blueprints/" + "ü" * 101, "n" * 300 + "/song", "folder/" * 200 + "song"]
)
def test_prefixes_that_no_file_can_have_are_refused(files, tmp_path, prefix):
    with pytest.raises(ValueError, match="filename_prefix: expected names of at most 200 bytes, 1000 with .*; shorten"):
        files.save_plan_file(prefix, "{}")
    assert os.listdir(tmp_path / "output") == []
    assert files.save_plan_file("n" * 200, "{}").is_file()
