"""The parts of `make demo` that need no ComfyUI."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RELEASED = {
    "model": "diffusion_models/acestep_v1.5_turbo.safetensors",
    "text_encoder": "text_encoders/qwen_0.6b_ace15.safetensors",
    "vae": "vae/ace_1.5_vae.safetensors",
}


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "host"))
    for name in ("COMFYUI_MODELS", "COMFYUI_DIR"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("acestep_demo", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "acestep_demo", module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", Path("/nowhere/ComfyUI-ACEStep"))
    return module


@pytest.fixture
def released(tmp_path, tiny_2b_split):
    """A models folder with the tiny set under the names of the released files."""
    for role, name in RELEASED.items():
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(getattr(tiny_2b_split, role), tmp_path / name)
    return tmp_path


def test_real_files_are_found_by_what_is_in_them(demo, released, monkeypatch) -> None:
    assert demo.find_weights() is None
    (released / "diffusion_models" / "a_image_model.safetensors").write_bytes(b"\0" * 64)
    monkeypatch.setenv("COMFYUI_MODELS", str(released))
    assert demo.find_weights() == demo.Weights(released, "acestep_v1.5_turbo.safetensors")


@pytest.mark.parametrize("role", RELEASED)
def test_an_incomplete_set_is_not_used(demo, released, monkeypatch, role) -> None:
    (released / RELEASED[role]).unlink()
    monkeypatch.setenv("COMFYUI_MODELS", str(released))
    assert demo.find_weights() is None


def test_tiny_files_never_pass_for_real_ones(demo, tiny_2b_split, monkeypatch) -> None:
    monkeypatch.setenv("COMFYUI_MODELS", str(tiny_2b_split.model.parents[1]))
    assert demo.find_weights() is None


def test_the_shipped_workflow_gets_the_model(demo) -> None:
    nodes = demo.prompt(demo.Weights(Path("/models"), "my_turbo.safetensors"))
    loaders = [node for node in nodes.values() if node["class_type"] == "ACEStepLoadDiT"]
    assert [node["inputs"]["model"] for node in loaders] == ["my_turbo.safetensors"]


def test_the_facts_of_a_flac(demo, tmp_path) -> None:
    packed = 48_000 << 44 | (2 - 1) << 41 | (24 - 1) << 36 | 28_800_000
    path = tmp_path / "song.flac"
    path.write_bytes(b"fLaC" + b"\x80\0\0\x22" + b"\x10\0" * 5 + packed.to_bytes(8, "big") + bytes(16))
    assert demo.read_flac(path) == demo.Flac(rate=48_000, channels=2, samples=28_800_000)
    path.write_bytes(b"RIFF" + bytes(40))
    with pytest.raises(SystemExit, match="not a FLAC file"):
        demo.read_flac(path)
