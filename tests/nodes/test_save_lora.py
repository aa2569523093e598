"""Adapters as new files of the loras folder: named, numbered, whole or not there, and never outside."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch

MODULE = "layers.0.self_attn.q_proj"
ENDINGS = {"single": ".safetensors", "peft": ""}
NO_NAMES = (
    *("", "  ", "../x", "a/b", "a\\b", "/x", ".hidden", "..", "a:b", "a\nb", "a\0", "a|b"),
    *("x" * 201, "é" * 101),
)


@pytest.fixture
def shelf(pack, tmp_path, monkeypatch):
    """ComfyUI's loras folder, its own for each test."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


@pytest.fixture
def adapter(core, rng):
    """A LoRA of rank 3 for one module."""
    delta = core("adapters.delta").LowRank(torch.randn(3, 8, generator=rng(1)), torch.randn(6, 3, generator=rng(2)))
    tools = core("adapters.adapter")
    return tools.Adapter({MODULE: delta}, tools.AdapterFacts("test"))


@pytest.fixture
def save(pack, shelf):
    """save(adapter, name, family) -> path."""
    return pack("host.save_lora").save_lora


def content(path):
    """Names and bytes of a saved adapter."""
    return sorted((file.name, file.read_bytes()) for file in ([path] if path.is_file() else path.iterdir()))


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_none_are_refused(save, shelf, adapter, name):
    with pytest.raises(ValueError, match="^name: expected"):
        save(adapter, name, "single")
    assert os.listdir(shelf) == [] and os.listdir(shelf.parent) == ["loras"]


def test_names_of_people_are_kept(save, shelf, adapter, pack):
    tools = pack("host.save_lora")
    for name in ("My voice (v2), 50 %", "声", "é" * 100, "a.b"):
        path = save(adapter, f" {name} ", "single")
        assert path == shelf / f"{name}_00001_.safetensors"
        assert tools.shown(path) == f"loras/{path.name}" and tools.entry_name(path) == path.name
        assert path.name in pack("host.loras").lora_names()


def test_saves_count_up_and_replace_nothing(save, shelf, adapter):
    (shelf / "out_00007_.safetensors").write_bytes(b"mine")
    (shelf / "OUT_00003_").mkdir()
    (shelf / "out_of_tune_00020_.safetensors").write_bytes(b"another")
    paths = [save(adapter, "out", family) for family in ("single", "peft", "single")]
    assert [path.name for path in paths] == ["out_00008_.safetensors", "out_00009_", "out_00010_.safetensors"]
    assert (shelf / "out_00007_.safetensors").read_bytes() == b"mine"
    assert len(os.listdir(shelf)) == 6  # no draft is left
    assert sorted(os.listdir(paths[1])) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((paths[1] / "adapter_config.json").read_text())["r"] == 3


@pytest.mark.parametrize("family", ENDINGS)
def test_a_name_that_was_taken_meanwhile_is_left_alone(pack, save, shelf, adapter, monkeypatch, family):
    """Somebody else saves between the look at the folder and the move."""
    taken = save(adapter, "out", family)
    before = content(taken)
    monkeypatch.setattr(pack("host.save_lora"), "_last_number", lambda *_: 0)
    assert save(adapter, "out", family) == shelf / f"out_00002_{ENDINGS[family]}"
    assert content(taken) == before


@pytest.mark.parametrize("family", ENDINGS)
def test_saves_at_the_same_time_get_names_of_their_own(core, save, shelf, adapter, family):
    threads = [threading.Thread(target=save, args=(adapter, "out", family)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [f"out_{number:05}_{ENDINGS[family]}" for number in range(1, 9)]
    assert sorted(os.listdir(shelf)) == names
    expected = adapter.deltas[MODULE].matrix()
    for name in names:
        found = core("adapters.files").read_adapter(shelf / name).deltas[MODULE].matrix()
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("family", ENDINGS)
def test_a_full_disk_leaves_nothing(save, shelf, adapter, monkeypatch, family):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="name: 'out' could not be written to .*No space left on device"):
        save(adapter, "out", family)
    assert os.listdir(shelf) == []


@pytest.mark.parametrize("family", ENDINGS)
def test_a_failed_move_leaves_nothing(save, shelf, adapter, monkeypatch, family):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace" if family == "single" else "rename", broken)
    with pytest.raises(ValueError, match="name: 'out' could not be written to .*Input/output error"):
        save(adapter, "out", family)
    assert os.listdir(shelf) == []


def test_the_first_folder_is_taken_and_made_where_there_is_none(save, shelf, adapter, monkeypatch):
    import folder_paths

    first = shelf.parent / "new" / "loras"
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(first), str(shelf)], {".safetensors"}))
    path = save(adapter, "out", "single")
    assert path == first / "out_00001_.safetensors" and path.is_file() and os.listdir(shelf) == []
