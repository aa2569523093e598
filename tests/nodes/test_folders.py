"""Model lists and paths."""

from __future__ import annotations

import json
import os
from pathlib import Path

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


def put(folder, files, config=None):
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def test_upstream_folders_are_listed_and_what_lies_beside_them_is_not(model_folders, tmp_path):
    repository, dit = tmp_path / "Ace-Step1.5", {"audio_acoustic_hidden_dim": 64}
    put(repository / "acestep-v15-turbo", ["model.safetensors", "silence_latent.pt"], dit)
    shards = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    put(tmp_path / "acestep-v15-xl-base", shards, dit)
    put(repository / "vae", ["diffusion_pytorch_model.safetensors"], {"sampling_rate": 48000})
    put(repository / "Qwen3-Embedding-0.6B", ["model.safetensors"], {"model_type": "qwen3"})
    put(repository / "acestep-5Hz-lm-1.7B", ["model.safetensors"], {"model_type": "qwen3"})
    put(tmp_path / "other", ["model.safetensors"], {"model_type": "flux"})
    put(tmp_path / "empty", [], dit)
    folders = model_folders(diffusion_models=tmp_path)
    turbo, xl = "Ace-Step1.5/acestep-v15-turbo", "acestep-v15-xl-base"
    assert folders.model_names() == ["other/model.safetensors", turbo, xl]
    assert folders.model_path(turbo) == tmp_path / turbo and folders.model_path(xl) == tmp_path / xl
    assert folders.folders_named("vae") == [repository / "vae"]


def test_checkpoints_are_listed_with_their_folder(model_folders, tmp_path):
    put(tmp_path / "one", ["model.safetensors"])
    put(tmp_path / "two", ["model.safetensors", "ace_aio.safetensors", "old.ckpt"])
    folders = model_folders(diffusion_models=tmp_path / "one", checkpoints=tmp_path / "two")
    names = ["model.safetensors", "checkpoints/ace_aio.safetensors", "checkpoints/model.safetensors"]
    assert folders.model_names() == names and folders.conditioner_names() == names
    assert folders.model_path("model.safetensors") == tmp_path / "one/model.safetensors"
    assert folders.model_path("checkpoints/model.safetensors") == tmp_path / "two/model.safetensors"
    with pytest.raises(ValueError, match=r"conditioner: 'gone\.safetensors' is not in .*two"):
        folders.model_path("checkpoints/gone.safetensors", "conditioner")


def test_of_two_files_of_one_name_the_first_is_taken_and_the_other_can_be_told(model_folders, tmp_path):
    for name in ("one", "two"):
        put(tmp_path / name, ["model.safetensors"])
    folders = model_folders(diffusion_models=[tmp_path / "one", tmp_path / "two"])
    first, second = tmp_path / "one/model.safetensors", tmp_path / "two/model.safetensors"
    assert folders.model_names() == ["model.safetensors"] and folders.model_path("model.safetensors") == first
    assert folders.other_paths("diffusion_models", first) == [second]
    second.unlink()
    assert folders.other_paths("diffusion_models", first) == []
    assert folders.other_paths("diffusion_models", tmp_path / "elsewhere.safetensors") == []


def test_a_name_cannot_leave_the_folder(model_folders, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.safetensors").touch()
    folders = model_folders(diffusion_models=tmp_path / "models")
    with pytest.raises(ValueError, match="is not in"):
        folders.model_path("../secret.safetensors")


def test_only_files_are_listed_and_a_complaint_names_the_nearest(model_folders, tmp_path):
    root = tmp_path / "models"
    put(root, [f"song_{index}.safetensors" for index in range(30)] + ["turbo-Q8_0.gguf"])
    (root / "folder.gguf").mkdir()
    (root / "dangling.gguf").symlink_to(root / "nowhere.gguf")
    folders = model_folders(diffusion_models=root)
    names = folders.weight_names("diffusion_models")
    assert "turbo-Q8_0.gguf" in names and not {"folder.gguf", "dangling.gguf"} & {*names}
    with pytest.raises(ValueError, match=r"31 are there, nearest: turbo-Q8_0\.gguf, [^,]+, [^,]+\);"):
        folders.model_path("turbo-Q8_1.gguf")


@pytest.fixture
def locked(monkeypatch):
    """locked(folder) makes listing the folder and reading its files fail, also for root, who may read anything."""
    real = {name: getattr(os, name) for name in ("scandir", "listdir", "stat")}

    def use(folder):
        def refusing(name):
            def call(path, *args, **options):
                if Path(os.fspath(path)).is_relative_to(folder):
                    raise PermissionError(13, "Permission denied", str(path))
                return real[name](path, *args, **options)

            return call

        for name in real:
            monkeypatch.setattr(os, name, refusing(name))

    return use


def test_a_folder_that_may_not_be_read_is_passed_over(pack, model_folders, tmp_path, locked):
    for name in ("closed", "song", "more/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(json.dumps({"_class_name": "AceStepPipeline"}))
    folders = model_folders(diffusers=tmp_path)
    assert folders.model_names() == ["closed", "more/deep", "song"]
    locked(tmp_path / "closed")
    assert folders.model_names() == ["more/deep", "song"]
    model, *_ = pack("load").LoadDiT.define_schema().inputs
    assert model.options[:2] == ["more/deep", "song"]


def test_pipelines_are_found_through_links_but_not_deeper_than_two_folders(model_folders, tmp_path):
    real, root = tmp_path / "elsewhere", tmp_path / "models"
    (root / "a/b/c").mkdir(parents=True)
    real.mkdir()
    for folder in (real, root / "a/b/c"):
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "AceStepPipeline"}))
    (root / "a/link").symlink_to(real, target_is_directory=True)
    (root / "a/loop").symlink_to(root, target_is_directory=True)
    assert model_folders(diffusers=root).model_names() == ["a/link"]


def test_stamp_of_what_cannot_be_read_is_its_name(model_folders, tmp_path, locked):
    (tmp_path / "song").mkdir()
    (tmp_path / "song/weights.safetensors").touch()
    folders = model_folders()
    gone, whole = folders.stamp(tmp_path / "gone.safetensors"), folders.stamp(tmp_path / "song")
    locked(tmp_path / "song")
    assert gone.endswith("gone.safetensors:?")
    assert folders.stamp(tmp_path / "song").endswith("song:?") and "weights" in whole


def test_stamp_of_a_folder_changes_with_any_of_its_weights(model_folders, tmp_path):
    (tmp_path / "transformer").mkdir()
    for name in ("transformer/a.safetensors", "b.sft", "config.json"):
        (tmp_path / name).touch()
    folders = model_folders()
    before = folders.stamp(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert folders.stamp(tmp_path) == before
    (tmp_path / "transformer/a.safetensors").write_bytes(b"new")
    assert folders.stamp(tmp_path) != before


def test_host_without_a_tokenizer_says_what_to_do(model_folders, tmp_path, monkeypatch):
    import comfy.ops

    folders = model_folders()
    assert (folders.host_tokenizer() / "vocab.json").is_file()
    monkeypatch.setattr(comfy.ops, "__file__", str(tmp_path / "ops.py"))
    with pytest.raises(ValueError, match=r"carries no tokenizer.*update ComfyUI.*tokenizer\.json"):
        folders.host_tokenizer()


def test_stamp_changes_with_the_file(model_folders, tmp_path):
    folders, file = model_folders(), tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    before = folders.stamp(file)
    assert folders.stamp(file) == before
    file.write_bytes(b"more")
    assert folders.stamp(file) != before
