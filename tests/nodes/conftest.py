"""The pack inside this process, loaded the way ComfyUI loads it, with ComfyUI's own modules around it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path += [str(HERE.parent / "host"), str(HERE)]

from fakecard import FakeCard  # noqa: E402
from hostlib import HostMissing, comfyui_dir  # noqa: E402

PACK = str(ROOT).replace(".", "_x_")  # ComfyUI names a pack by its path


def pytest_collection_modifyitems(items):
    """Everything in this folder needs the host's source tree."""
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def comfy_modules():
    """ComfyUI importable on the CPU; its root comes before ours, so that our `nodes/` hides nothing of it."""
    try:
        root = comfyui_dir()
    except HostMissing as error:
        pytest.skip(str(error))
    sys.path.insert(0, str(root))
    from comfy.cli_args import args

    args.cpu = True
    return root


@pytest.fixture(scope="session")
def pack(comfy_modules):
    """pack("host.models") is that module of nodes/; pack("") is nodes itself."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
        sys.modules[PACK] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

    def load(name):
        return importlib.import_module(f"{PACK}.nodes{'.' if name else ''}{name}")

    return load


@pytest.fixture(scope="session")
def core(pack):
    """core("blueprint") is that module of acestep_models as the pack sees it."""
    return lambda name: importlib.import_module(f"{PACK}.acestep_models.{name}")


@pytest.fixture
def model_folders(pack, monkeypatch):
    """model_folders(diffusion_models=dir or [dirs], ...) makes these the host's only folders of their kind."""
    import folder_paths

    def use(**places):
        table = dict(folder_paths.folder_names_and_paths)
        for category in ("diffusion_models", "diffusers", "checkpoints", "text_encoders", "vae"):
            given = places.get(category, [])
            folders = list(map(str, given if isinstance(given, list) else [given]))
            table[category] = (folders, table[category][1])
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        return pack("host.folders")

    return use


@pytest.fixture
def loaded(pack, model_folders, tiny_2b_split):
    """The tiny model as LoadDiT gives it out."""
    root = tiny_2b_split.model.parents[1]
    model_folders(**{name: root / name for name in ("diffusion_models", "text_encoders", "vae")})
    sources = pack("host.sources").find_sources(tiny_2b_split.model.name)
    return pack("host.loader").load(sources, "turbo", "fp32")


@pytest.fixture
def real_size(tmp_path, core, model_folders):
    """The name of a 0.6B planner of real size: every number is zero, and the file a hole."""
    import torch

    config = core("qwen3.config").LM_06B
    network = core("qwen3.model").Qwen3(config, device=torch.device("meta"))
    header, end = {}, 0
    for key, value in network.state_dict().items():
        header[f"model.{key}"] = {
            "dtype": "BF16",
            "shape": list(value.shape),
            "data_offsets": [end, end + 2 * value.numel()],
        }
        end += 2 * value.numel()
    raw = json.dumps(header).encode()
    folder = tmp_path / "acestep-5Hz-lm-0.6B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vocab_size": config.vocab_size, "model_type": "qwen3"}))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    model_folders(text_encoders=tmp_path)
    return folder.name


@pytest.fixture
def load_planner(pack):
    """load_planner(name, precision) -> what LoadLM makes of an entry of its list."""
    loader, folders = pack("host.lm_loader"), pack("host.folders")
    return lambda name, precision="fp32": loader.load_planner(
        loader.open_planner(folders.planner_path(name)), precision
    )


@pytest.fixture
def fake_gpu(pack, monkeypatch):
    """fake_gpu(bytes) pretends that device cpu:0 is a graphics card with so much memory; it computes real numbers.

    fake_gpu(bytes, device=...) pretends it of another device.
    """
    card = FakeCard(monkeypatch.setattr)
    yield card
    card.forget()


@pytest.fixture
def model(pack, tiny_2b_split):
    """The tiny decoder as LoadDiT makes it inside ComfyUI: in inference mode."""
    import torch

    with torch.inference_mode():
        return pack("host.loader").load_decoder(tiny_2b_split.model, tiny_2b_split.model, "turbo", "fp32")


@pytest.fixture
def output(tmp_path, monkeypatch, pack):
    """ComfyUI's output and loras folders, their own for each test."""
    import folder_paths

    (tmp_path / "loras").mkdir()
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    table = dict(folder_paths.folder_names_and_paths)
    table["loras"] = ([str(tmp_path / "loras")], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture(scope="session")
def velocity_of():
    """velocity_of(decoder): what it says to fixed inputs."""
    import torch

    def ask(decoder):
        random, config = torch.Generator().manual_seed(3), decoder.config
        x, context = (torch.randn(1, 20, wide, generator=random) for wide in (64, 128))
        tokens = torch.randn(1, 7, config.encoder_hidden_size, generator=random)
        return decoder(x, context, tokens, torch.tensor([0.5]))

    return ask
