"""Model lists and paths."""

from __future__ import annotations

import json

import pytest


def test_empty_folders_give_an_entry_that_says_what_to_do(model_folders):
    folders = model_folders()
    assert folders.model_names() == [folders.EMPTY]
    assert "models/diffusion_models" in folders.EMPTY
    with pytest.raises(ValueError, match="Comfy-Org/ace_step_1.5_ComfyUI_files"):
        folders.model_path(folders.EMPTY)


def test_missing_folders_are_no_error(model_folders, tmp_path):
    folders = model_folders(diffusion_models=tmp_path / "gone", diffusers=tmp_path / "gone too")
    assert folders.model_names() == [folders.EMPTY]


def test_pipelines_are_listed_by_folder_and_their_files_are_not(model_folders, tmp_path):
    for name, kind in (("song", "AceStepPipeline"), ("picture", "FluxPipeline")):
        (tmp_path / name / "transformer").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        (tmp_path / name / "transformer" / "weights.safetensors").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "old.ckpt").touch()
    folders = model_folders(diffusion_models=tmp_path)
    assert folders.model_names() == ["model.safetensors", "picture/transformer/weights.safetensors", "song"]
    assert folders.model_path("song") == tmp_path / "song"
    assert folders.model_path("model.safetensors") == tmp_path / "model.safetensors"


def test_a_name_cannot_leave_the_folder(model_folders, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.safetensors").touch()
    folders = model_folders(diffusion_models=tmp_path / "models")
    with pytest.raises(ValueError, match="is not in"):
        folders.model_path("../secret.safetensors")


def test_stamp_changes_with_the_file(model_folders, tmp_path):
    folders, file = model_folders(), tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    before = folders.stamp(file)
    assert folders.stamp(file) == before
    file.write_bytes(b"more")
    assert folders.stamp(file) != before
