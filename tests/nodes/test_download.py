"""LoadDiT and released models: nothing is fetched unless the switch is on; then what is missing, once."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "loading"))

from hubserver import Hub, serve  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
COMFY = "Comfy-Org/ace_step_1.5_ComfyUI_files"
CATEGORIES = ("diffusion_models", "text_encoders", "vae")


@pytest.fixture
def no_network(monkeypatch):
    """Every way out of this process fails the test: sockets, names, and processes that could have sockets."""
    tried = []

    def refuse(*args, **_):
        tried.append(args)
        raise AssertionError(f"network access: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    yield tried
    assert tried == []


@pytest.fixture
def hub(monkeypatch, tmp_path, tiny_2b_split):
    """A hub with the tiny model under the released names."""
    names = {
        "diffusion_models/acestep_v1.5_turbo.safetensors": tiny_2b_split.model,
        "text_encoders/qwen_0.6b_ace15.safetensors": tiny_2b_split.text_encoder,
        "vae/ace_1.5_vae.safetensors": tiny_2b_split.vae,
    }
    hub = Hub({COMFY: {f"split_files/{name}": path.read_bytes() for name, path in names.items()}})
    server = serve(hub)
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*", "no_proxy": "*"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def empty(model_folders, tmp_path):
    """ComfyUI's folders, with nothing in them."""
    places = {name: tmp_path / "models" / name for name in CATEGORIES}
    for place in places.values():
        place.mkdir(parents=True)
    model_folders(**places)
    return places


def test_switch_is_off_by_default_and_then_nothing_is_asked_for(pack, empty, no_network):
    load = pack("load")
    inputs = {socket.id: socket for socket in load.LoadDiT.define_schema().inputs}
    assert inputs["download"].default is False
    zoo = pack("host.download").zoo_names()
    assert [f"{name}{load.MARK}" for name in zoo] == [name for name in inputs["model"].options if load.MARK in name]
    assert len(zoo) == 9
    for name in zoo:
        choice = f"{name}{load.MARK}"
        load.LoadDiT.fingerprint_inputs(choice, "auto", "auto", "auto", "auto", "auto", False)
        with pytest.raises(ValueError, match=rf"{name} is not here\. Switch download on.*decoder about .*GB, text enc"):
            asyncio.run(load.LoadDiT.execute(choice, "auto", "auto", "auto", "auto", "auto", False))


def test_off_loads_what_is_there_without_network(pack, hub, empty, no_network):
    """The released name finds the released file; a missing VAE stays missing."""
    for name, content in hub.repos[COMFY].items():
        (empty["vae"].parent / name.removeprefix("split_files/")).write_bytes(content)
    download, load = pack("host.download"), pack("load")
    assert download.on_disk("acestep-v15-turbo") == "acestep_v1.5_turbo.safetensors"
    asyncio.run(load.LoadDiT.execute(f"acestep-v15-turbo{load.MARK}", "auto", "auto", "auto", "auto", "fp32", False))
    (empty["vae"] / "ace_1.5_vae.safetensors").unlink()
    with pytest.raises(ValueError, match="vae: no 48 kHz VAE"):
        asyncio.run(
            load.LoadDiT.execute(f"acestep-v15-turbo{load.MARK}", "auto", "auto", "auto", "auto", "fp32", False)
        )


def test_a_folder_of_the_very_name_is_what_was_chosen(pack, empty, tiny_2b_diffusers, tiny_2b_split):
    (empty["diffusion_models"] / "acestep_v1.5_turbo.safetensors").symlink_to(tiny_2b_split.model)
    on_disk = pack("host.download").on_disk
    assert on_disk("acestep-v15-turbo") == "acestep_v1.5_turbo.safetensors"
    (empty["diffusion_models"] / "acestep-v15-turbo").symlink_to(tiny_2b_diffusers.model, target_is_directory=True)
    assert on_disk("acestep-v15-turbo") == "acestep-v15-turbo"


def test_import_brings_neither_client_nor_network():
    """A fresh Python, guarded from its first line: the whole core, no huggingface_hub, no socket."""
    code = """
import socket, sys
def refuse(*a, **k): raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import acestep_models.loading.hub as hub
import acestep_models.pipelines.load
assert len(hub.ZOO) == 12
assert "huggingface_hub" not in sys.modules, "the client was imported"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_on_fetches_what_is_missing_once_and_loads_it(pack, hub, empty, tiny_2b_split):
    load = pack("load")
    choice = (f"acestep-v15-turbo{load.MARK}", "auto", "auto", "auto", "auto", "fp32", True)
    before = load.LoadDiT.fingerprint_inputs(*choice)
    asyncio.run(load.LoadDiT.execute(*choice))
    for name, content in hub.repos[COMFY].items():
        assert (empty["vae"].parent / name.removeprefix("split_files/")).read_bytes() == content
    assert load.LoadDiT.fingerprint_inputs(*choice) != before
    assert "acestep_v1.5_turbo.safetensors" in pack("host.folders").model_names()
    hub.requests.clear()
    asyncio.run(load.LoadDiT.execute(*choice))
    assert hub.requests == []


def test_on_completes_a_file_of_the_users_own(pack, hub, empty, tiny_2b_split):
    """Text encoder and VAE are fetched, the decoder is not."""
    shutil.copy(tiny_2b_split.model, empty["diffusion_models"] / "my_turbo_merge.safetensors")
    load = pack("load")
    asyncio.run(load.LoadDiT.execute("my_turbo_merge.safetensors", "auto", "auto", "auto", "auto", "fp32", True))
    assert set(hub.sent) == {
        "split_files/text_encoders/qwen_0.6b_ace15.safetensors",
        "split_files/vae/ace_1.5_vae.safetensors",
    }
    assert not (empty["diffusion_models"] / "acestep_v1.5_turbo.safetensors").exists()


def test_cancel_button_ends_a_download(pack, hub, empty):
    """The host's own exception, and nothing in its lists."""
    import comfy.model_management as management

    hub.slow["split_files/diffusion_models/acestep_v1.5_turbo.safetensors"] = 0.05
    real, calls = management.throw_exception_if_processing_interrupted, []

    def interrupt():
        calls.append(1)
        if hub.sent:
            management.interrupt_current_processing()
        real()

    load = pack("load")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(management, "throw_exception_if_processing_interrupted", interrupt)
        with pytest.raises(management.InterruptProcessingException):
            asyncio.run(
                load.LoadDiT.execute(f"acestep-v15-turbo{load.MARK}", "auto", "auto", "auto", "auto", "fp32", True)
            )
    management.interrupt_current_processing(False)
    assert calls
    folders = pack("host.folders")
    assert folders.model_names() == [folders.EMPTY]


def test_new_files_go_to_the_first_folder_that_can_be_written(pack, model_folders, tmp_path, monkeypatch):
    import folder_paths

    download = pack("host.download")
    for name in ("unet", "diffusion_models", "mine"):
        (tmp_path / name).mkdir()
    closed = set()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in closed and real(path, mode))
    places = [str(tmp_path / name) for name in ("unet", "diffusion_models", "mine")]
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda _: places)
    assert download.home("diffusion_models").name == "diffusion_models"  # ComfyUI lists the old name first
    closed.add("diffusion_models")
    assert download.home("diffusion_models").name == "mine"
    closed.update(("mine", "unet"))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "unet")) + r".*make one writable"):
        download.home("diffusion_models")
