"""When LoadDiT loads again: its files, and those that auto may choose."""

from __future__ import annotations

import shutil

import pytest

FOLDERS = ("diffusion_models", "text_encoders", "vae")
CATEGORIES = {"model": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}


@pytest.fixture
def fingerprint(pack, tiny_2b_split, model_folders, tmp_path):
    """fingerprint(text_encoder=..., vae=...) of LoadDiT over copies of the tiny files in `tmp_path`."""
    for folder, file in zip(FOLDERS, (tiny_2b_split.model, tiny_2b_split.text_encoder, tiny_2b_split.vae), strict=True):
        (tmp_path / folder).mkdir()
        shutil.copy(file, tmp_path / folder / "file.safetensors")

    def ask(text_encoder="auto", vae="auto"):
        model_folders(**{name: tmp_path / name for name in FOLDERS})  # forgets the host's lists
        node = pack("load").LoadDiT
        return node.fingerprint_inputs("file.safetensors", "auto", text_encoder, vae, "auto")

    return ask


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("choice", ["auto", "file.safetensors"])
def test_a_changed_file_loads_again(fingerprint, tmp_path, folder, choice):
    before = fingerprint(choice, choice)
    assert fingerprint(choice, choice) == before
    with (tmp_path / folder / "file.safetensors").open("ab") as file:
        file.write(b"more")
    assert fingerprint(choice, choice) != before


def test_auto_watches_what_it_may_choose_and_a_choice_only_itself(fingerprint, tmp_path):
    auto, chosen = fingerprint(), fingerprint("file.safetensors", "file.safetensors")
    shutil.copy(tmp_path / "vae/file.safetensors", tmp_path / "vae/other.safetensors")
    assert fingerprint() != auto
    assert fingerprint("file.safetensors", "file.safetensors") == chosen


def test_linked_choices_are_not_known_yet_and_load_once(fingerprint, pack, tmp_path):
    before = fingerprint()
    node = pack("load").LoadDiT
    linked = node.fingerprint_inputs(None, None, None, None, None)
    assert linked == node.fingerprint_inputs(None, None, None, None, None) != before
    (tmp_path / "diffusion_models" / "file.safetensors").write_bytes(b"changed")
    assert node.fingerprint_inputs(None, None, None, None, None) != linked
