"""The list of adapters, the paths of its entries, and when they are read again."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

KEY = "base_model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def write_file(path, scale=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({KEY.format("A"): scale * torch.ones(2, 8), KEY.format("B"): torch.ones(8, 2)}, path)
    return path


def write_peft(folder, alpha=4):
    write_file(folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def loras(pack, tmp_path, monkeypatch):
    """host.loras, with two loras folders: tmp_path/one and tmp_path/two."""
    import folder_paths

    table = dict(folder_paths.folder_names_and_paths)
    table["loras"] = ([str(tmp_path / "one"), str(tmp_path / "two")], table["loras"][1])
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return pack("host.loras")


def test_files_and_peft_folders_are_listed(loras, tmp_path):
    write_file(tmp_path / "one/b.safetensors")
    write_file(tmp_path / "one/deep/a.safetensors")
    write_file(tmp_path / "one/lone/adapter_model.safetensors")  # no config beside it: a file as any other
    (tmp_path / "one/old.pt").write_bytes(b"pickle")
    write_peft(tmp_path / "two/runs/song/checkpoints/epoch_200/adapter")
    write_peft(tmp_path / "two/voice")
    lone, deep = os.path.join("lone", "adapter_model.safetensors"), os.path.join("deep", "a.safetensors")
    names = loras.lora_names()
    assert sorted(names[:3]) == sorted(["b.safetensors", deep, lone])
    assert names[3:] == ["runs/song/checkpoints/epoch_200/adapter", "voice"]
    assert loras.lora_path("voice") == tmp_path / "two/voice"
    assert loras.lora_path(lone) == tmp_path / "one/lone/adapter_model.safetensors"


def test_an_empty_list_says_what_to_do(loras):
    assert loras.lora_names() == [loras.EMPTY]
    with pytest.raises(ValueError, match=r"put one into models/loras\)' is not in .*one.*there: nothing.*PEFT"):
        loras.lora_path(loras.EMPTY)


@pytest.mark.parametrize("name", ["gone.safetensors", "old.pt", "../one/b.safetensors", "", "lone", "\0"])
def test_what_is_not_listed_is_refused(loras, tmp_path, name):
    write_file(tmp_path / "one/b.safetensors")
    (tmp_path / "one/old.pt").write_bytes(b"pickle")
    (tmp_path / "one/lone").mkdir()
    with pytest.raises(ValueError, match=r"lora: .* is not in .* \(there: b\.safetensors\)"):
        loras.lora_path(name)
    assert "is not there" in loras.lora_stamp(name)


def test_a_file_is_parsed_once_a_state(loras, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(loras, "read_adapter", lambda path, alpha: read.append((path.name, alpha)) or object())
    file, folder = write_file(tmp_path / "one/b.safetensors"), write_peft(tmp_path / "one/voice")
    first = loras.load_lora("b.safetensors")
    assert loras.load_lora("b.safetensors") is first and read == [("b.safetensors", None)]
    assert loras.load_lora("b.safetensors", 8.0) is not first
    write_file(file, scale=2.0)
    os.utime(file, ns=(1, 1))
    assert loras.load_lora("b.safetensors") is not first and len(read) == 3
    before, old = loras.lora_stamp("voice"), loras.load_lora("voice")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace("4", "16"))
    assert loras.lora_stamp("voice") != before and loras.load_lora("voice") is not old
    beside = loras.lora_stamp("b.safetensors")
    (tmp_path / "one/adapter_config.json").write_text("{}")  # it says the alpha of the files in its folder
    assert loras.lora_stamp("b.safetensors") != beside


def test_the_adapters_used_last_stay_within_so_many_bytes(loras, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(loras, "read_adapter", lambda path, alpha: read.append(path.stem) or object())
    files = {name: write_file(tmp_path / f"one/{name}.safetensors") for name in "abc"}
    size = files["a"].stat().st_size

    def used(bound, names):
        read.clear()
        parsed = loras.ParsedAdapters(bound)
        for name in names:
            parsed.get(files[name], None)
        return "".join(read)

    assert used(2 * size, "abacab") == "abcb"
    assert used(2 * size - 1, "aabba") == "aba"
    assert used(size - 1, "aa") == "aa"
    assert loras.KEPT_BYTES == 512 * 1024**2


def test_one_state_of_a_file_is_kept(loras, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(loras, "read_adapter", lambda path, alpha: read.append(alpha) or object())
    parsed, file = loras.ParsedAdapters(1 << 20), write_file(tmp_path / "one/a.safetensors")
    for alpha in (None, None, 8.0, 8.0, None):
        parsed.get(file, alpha)
    assert read == [None, 8.0, None] and len(parsed._read) == 1


def test_a_peft_folder_is_whole_in_one_place_or_none(loras, tmp_path):
    """Its halves in two of the host's folders are none, and an incomplete folder hides no whole one."""
    lone, name = write_file(tmp_path / "one/voice/adapter_model.safetensors"), os.path.join("voice", loras.WEIGHTS)
    (tmp_path / "two/voice").mkdir()
    (tmp_path / "two/voice/adapter_config.json").write_text("{}")
    assert loras.lora_names() == [name]
    write_peft(tmp_path / "two/voice")
    assert loras.lora_names() == [name, "voice"]
    assert loras.lora_path("voice") == tmp_path / "two/voice" and loras.lora_path(name) == lone


def test_weights_put_beside_a_file_are_a_change_of_it(loras, tmp_path):
    """The config of a folder counts for the only weights there."""
    write_file(tmp_path / "one/deep/b.safetensors")
    write_peft(tmp_path / "one/voice")
    names = os.path.join("deep", "b.safetensors"), "voice"
    for name, folder in zip(names, ("deep", "voice"), strict=True):
        before = loras.lora_stamp(name)
        (tmp_path / "one" / folder / "note.txt").write_text("x")
        assert loras.lora_stamp(name) == before
        write_file(tmp_path / "one" / folder / "c.SFT")
        assert loras.lora_stamp(name) != before
