"""What LoadDiT loads is the same numbers on every device; precision decides only what they are computed in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

FOLDERS = ("diffusion_models", "text_encoders", "vae")
TABLES = "scale_shift_table"


def copy(source, target, change):
    """The file with `change(name, tensor)` in place of every tensor."""
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: change(key, value).contiguous() for key, value in load_file(source).items()}, target, metadata)


@pytest.fixture
def load(pack, tiny_2b_split, model_folders, tmp_path):
    """load(precision, change) loads the tiny set as `change` made it; by default every number is bf16."""

    def run(precision, change=lambda key, value: value.bfloat16()):
        tiny = tiny_2b_split
        for folder, file in zip(FOLDERS, (tiny.model, tiny.text_encoder, tiny.vae), strict=True):
            copy(file, tmp_path / folder / file.name, change)
        model_folders(**{name: tmp_path / name for name in FOLDERS})
        sources = pack("host.sources").find_sources(tiny.model.name)
        return pack("host.loader").load(sources, "turbo", precision)

    return run


def networks(loaded):
    """Every network by name."""
    conditioner = loaded.conditioner
    run_once = {name: getattr(conditioner, name).module for name in ("text", "condition", "detokenizer")}
    return {**run_once, "vae": loaded.vae.module, "decoder": loaded.model.model.diffusion_model.decoder}


def dtypes(module):
    return {parameter.dtype for parameter in module.parameters()}


def test_bf16_files_in_fp32_are_on_a_card_what_they_are_on_the_cpu(load, fake_gpu):
    exact = load("fp32")
    fake_gpu(1 << 40)
    card = load("fp32")
    for name, module in networks(card).items():
        kept = torch.float32 if name == "vae" else torch.bfloat16  # its weight norm is folded
        assert dtypes(module) == {kept}, name
        wanted = networks(exact)[name].state_dict()
        assert all(torch.equal(value.float(), wanted[key]) for key, value in module.state_dict().items()), name
    assert torch.equal(card.conditioner.silence.frames, exact.conditioner.silence.frames)


def test_bf16_files_in_fp32_make_on_a_card_what_they_make_on_the_cpu(pack, core, load, fake_gpu, relative_error):
    cpu = music(pack, core, load("fp32"))
    fake_gpu(1 << 40)
    card = music(pack, core, load("fp32"))
    assert relative_error(card.latents, cpu.latents) < 1e-6
    assert relative_error(card.wave, cpu.wave) < 1e-6


def music(pack, core, loaded):
    """Latents of a short song, and the sound of its first second."""
    song = core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    runtime, decoder = pack("host.runtime").HostRuntime(), pack("host.decoder").HostDecoder(loaded.model, 5)
    options = core("sampling.schedule").SamplingOptions(steps=2)
    with torch.inference_mode():
        made = core("pipelines.generate").generate(runtime, decoder, loaded.conditioner, (song,), options, 5).latents
        return SimpleNamespace(latents=made, wave=core("pipelines.decode").decode(runtime, loaded.vae, made[..., :25]))


def test_rounding_the_folded_weights_would_be_heard(core, load, relative_error):
    """Why a VAE whose weight norm is folded is not kept in bf16: its product is no bf16 number."""
    vae = load("fp32").vae.module
    latents = torch.randn(1, 64, 25, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = vae.decode(latents)
        rounded = vae.bfloat16().float().decode(latents)
    assert relative_error(rounded, exact) > 1e-3


def test_silence_does_not_depend_on_the_precision(core, load, fake_gpu, relative_error):
    loaded = load("fp32")
    exact = loaded.conditioner.silence.frames
    with torch.inference_mode():
        made = core("dit.silence").silence_from_vae(loaded.vae.module.encode_mean).frames
    assert relative_error(exact, made) < 1e-6
    assert torch.equal(load("bf16").conditioner.silence.frames, exact)
    fake_gpu(1 << 40)
    half = load("bf16")
    assert dtypes(half.vae.module) == {torch.bfloat16}
    assert torch.equal(half.conditioner.silence.frames, exact)


def test_silence_of_a_file_without_one_comes_from_the_vae(loaded):
    frames = loaded.conditioner.silence.frames
    assert frames.shape == (9, 64) and bool(frames.isfinite().all())
    assert not torch.equal(frames[0], frames[-1])


def test_tables_in_fp32_are_not_rounded_on_a_card(load, fake_gpu, tiny_2b_split):
    def mostly_half(key, value):
        return value if TABLES in key else value.bfloat16()

    fake_gpu(1 << 40)
    loaded = load("fp32", mostly_half)
    state, stored = networks(loaded)["decoder"].state_dict(), load_file(tiny_2b_split.model)
    tables = [key for key in state if TABLES in key]
    assert tables and dtypes(networks(loaded)["decoder"]) == {torch.float32}
    assert all(torch.equal(state[key], stored[f"decoder.{key}"]) for key in tables)
    assert dtypes(networks(loaded)["text"]) == {torch.bfloat16}  # a part without tables is kept as it is


def test_weights_are_never_kept_in_less_than_they_need(pack, core, fake_gpu):
    storage, half, single = pack("host.loader").storage_dtype, torch.bfloat16, torch.float32
    card, cpu = torch.device("cpu", 0), torch.device("cpu")
    plain, mixed = {"conv.weight": "BF16"}, {"conv.weight": "BF16", "conv.bias": "F32"}
    norm = {"conv.weight_g": "BF16", "conv.weight_v": "BF16"}
    # compute, file, device -> kept in
    table = [(single, plain, card, half), (single, mixed, card, single), (single, norm, card, single)]
    table += [(single, {"conv.weight": "F16"}, card, single), (single, plain, cpu, single), (half, norm, card, half)]
    table += [(half, mixed, card, half), (half, plain, cpu, half)]
    for compute, tensors, device, kept in table:
        entries = {key: SimpleNamespace(dtype=dtype) for key, dtype in tensors.items()}
        sources = {"vae": SimpleNamespace(entries=entries)}
        checkpoint = core("loading.checkpoint").Checkpoint(Path("file"), "split", sources, {})
        assert storage(compute, checkpoint, "vae", device) == kept, (compute, tensors, device)


def test_a_missing_part_is_named(pack, core, tiny_2b_split):
    checkpoint = core("loading.formats").probe(tiny_2b_split.vae)
    with pytest.raises(ValueError, match="has no detokenizer, only vae"):
        pack("host.loader").cast_part(checkpoint, "detokenizer", torch.float32, torch.device("cpu"))


def test_unknown_precision(pack):
    with pytest.raises(ValueError, match="expected auto, bf16, fp32, int8; got 'fp16'"):
        pack("host.loader").decoder_dtype("fp16", torch.device("cpu"))
