"""GGUF files through the host: listed, mixed, streamed as resident, patched, saved, and played."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

pytest.importorskip("gguf")
ORACLE = Path(__file__).resolve().parents[1] / "oracles" / "ggufs.py"
NAMES = ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj", "layers.2.cross_attn.v_proj")


@pytest.fixture(scope="module")
def sets(tmp_path_factory, write_tiny):
    """sets(kind) -> the weights of `tiny_2b_split` in four GGUF files."""
    spec = importlib.util.spec_from_file_location("ggufs", ORACLE)
    writer = sys.modules["ggufs"] = importlib.util.module_from_spec(spec)  # its dataclass looks itself up
    spec.loader.exec_module(writer)
    upstream = write_tiny(tmp_path_factory.mktemp("upstream"), layout="upstream", family="2b")
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = writer.write_set(tmp_path_factory.mktemp(kind), upstream, kind)
        return made[kind]

    return get


@pytest.fixture
def load(pack, sets):
    """load(kind) -> the MODEL of the decoder of that set."""

    def get(kind="Q5_1", precision="auto"):
        file = sets(kind).model
        return pack("host.loader").load_decoder(file, file, "turbo", precision)

    return get


@pytest.fixture
def unblocked(load):
    """unblocked(model) -> a MODEL in fp32 whose weights are the numbers that the blocks of another stand for."""

    def make(model):
        plain, mine = load("BF16", "fp32"), model.model.diffusion_model.decoder
        numbers = {f"{name}.weight": layer.unpacked() for name, layer in blocks_of(model)}
        plain.model.diffusion_model.decoder.load_state_dict({**mine.state_dict(), **numbers}, assign=True)
        return plain

    return make


@pytest.fixture
def deltas(pack, core, rng):
    """LoRAs on three matrices of a MODEL, by the shapes that it says its matrices have."""

    def make(model):
        shapes, random, low = pack("host.adapters").decoder_shapes(model), rng(3), core("adapters.delta").LowRank
        return {
            n: low(
                0.3 * torch.randn(4, shapes[n][1], generator=random),
                0.3 * torch.randn(shapes[n][0], 4, generator=random),
                1.0,
            )
            for n in NAMES
        }

    return make


def blocks_of(model):
    found = model.model.diffusion_model.decoder.named_modules()
    return [(name, layer) for name, layer in found if type(layer).__name__ == "HostBlockLinear"]


def bytes_of(model):
    return sum(value.nbytes for value in (*model.model.parameters(), *model.model.buffers()))


def velocity(model, rng, memory=0):
    """One call of the host's model at fixed numbers [1, 64, 50]."""
    import comfy.model_management as management

    management.load_models_gpu([model], memory_required=memory)
    place, random = model.load_device, rng(4)
    x, context = torch.randn(1, 64, 50, generator=random), torch.randn(1, 128, 50, generator=random)
    tokens = torch.randn(1, 9, 64, generator=random)
    with torch.inference_mode():
        return model.model.apply_model(
            x.to(place), torch.tensor([0.7], device=place), c_crossattn=tokens.to(place), song_context=context.to(place)
        )


def folders_of(files):
    return {
        "diffusion_models": files.model.parent,
        "text_encoders": files.text_encoder.parent,
        "vae": files.vae.parent,
    }


def test_they_are_listed_and_found(pack, sets, model_folders, tiny_2b_split):
    files = sets("Q5_1")
    folders = model_folders(**folders_of(files))
    assert folders.model_names() == [files.model.name] and folders.vae_names() == [files.vae.name]
    assert folders.planner_names()[0] == files.lm.name, "named like a planner"
    assert set(folders.text_encoder_names()) == {files.lm.name, files.text_encoder.name}
    found = pack("host.sources").find_sources(files.model.name)
    assert (found.text_encoder.path, found.vae.path) == (files.text_encoder, files.vae)
    before = pack("host.sources").stamp_sources(files.model.name)
    assert all(str(path) in before for path in (files.model, files.text_encoder, files.vae))
    mixed = {
        **folders_of(tiny_2b_split),
        "diffusion_models": [files.model.parent, tiny_2b_split.model.parent],
    }
    folders = model_folders(**mixed)
    assert set(folders.model_names()) == {files.model.name, tiny_2b_split.model.name}
    found = pack("host.sources").find_sources(files.model.name)
    assert found.vae.path == tiny_2b_split.vae and found.decoder.path == files.model
    import folder_paths

    assert files.model.name not in folder_paths.get_filename_list("diffusion_models"), "the host's lists stay its own"


@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
def test_streamed_is_resident(pack, load, deltas, fake_gpu, rng, with_lora):
    fake_gpu(1 << 40)
    model = load()
    played = pack("host.adapters").apply(model, deltas(model), 1.0) if with_lora else model
    whole = velocity(played, rng)
    assert played.loaded_size() >= played.model_size()
    fake_gpu(model.model_size() * 9 // 10)
    streamed = velocity(played, rng)
    assert 0 < played.loaded_size() < model.model_size()
    assert torch.equal(streamed, whole)


def test_a_lora_on_top_is_one_on_the_numbers_they_stand_for(pack, load, unblocked, deltas, rng, relative_error):
    model = load()
    stored = {name: layer.weight.clone() for name, layer in blocks_of(model)}
    before, plain, apply = velocity(model, rng), unblocked(model), pack("host.adapters").apply
    assert relative_error(before, velocity(plain, rng)) < 1e-5
    changed = velocity(apply(model, deltas(model), 0.7), rng)
    assert relative_error(changed, before) > 1e-3
    assert relative_error(changed, velocity(apply(plain, deltas(plain), 0.7), rng)) < 1e-5
    assert torch.equal(velocity(model, rng), before)
    assert all(torch.equal(layer.weight, stored[name]) for name, layer in blocks_of(model))


def test_real_bytes_are_counted(pack, load, deltas, fake_gpu, rng):
    fake_gpu(1 << 40)
    model, full = load("Q4_0"), load("BF16", "fp32")
    assert model.model_size() == bytes_of(model) < 0.5 * full.model_size()
    played = pack("host.adapters").apply(model, deltas(model), 1.0)
    velocity(played, rng)
    patched = {name for name, layer in blocks_of(model) if layer.weight.dtype == torch.float32}
    assert patched == set(NAMES) and played.loaded_size() == bytes_of(played) > played.model_size()
    velocity(model, rng)
    assert model.loaded_size() == model.model_size() == bytes_of(model)
    import comfy.model_management as management

    management.free_memory(1e30, model.load_device)
    assert model.loaded_size() == 0


@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
def test_a_saved_decoder_is_one_of_plain_weights(pack, load, sets, deltas, rng, relative_error, tmp_path, with_lora):
    model = load()
    played = pack("host.adapters").apply(model, deltas(model), 1.0) if with_lora else model
    before = velocity(played, rng)
    written = played.model.state_dict_for_saving()
    assert not any(value.dtype == torch.uint8 for value in written.values())
    save_file({key: value.contiguous() for key, value in written.items()}, tmp_path / "mine.safetensors")
    again = pack("host.loader").load_decoder(tmp_path / "mine.safetensors", sets("Q5_1").model, "turbo", "fp32")
    assert not blocks_of(again) and relative_error(velocity(again, rng), before) < 1e-5


def test_training_and_merging_see_what_they_stand_for(pack, load, rng):
    model, weights = load(), pack("host.weights")
    made = weights.DecoderWeights(model, torch.device("cpu"))
    full = weights.DecoderWeights(load("BF16", "fp32"), torch.device("cpu"))
    assert set(made) == set(full)
    for name, layer in blocks_of(model):
        assert torch.equal(made[f"{name}.weight"], layer.unpacked())
        assert made[f"{name}.weight"].shape == full[f"{name}.weight"].shape
    weights.decoder_pair(model, load("BF16", "fp32"))


def song(pack, core, loaded):
    """Latents [1, 64, 250] of ten seconds."""
    runtime, decoder = pack("host.runtime").HostRuntime(), pack("host.decoder").HostDecoder(loaded.model, 5)
    options = core("sampling.schedule").SamplingOptions(steps=2)
    plan = core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    with torch.inference_mode():
        return core("pipelines.generate").generate(runtime, decoder, loaded.conditioner, (plan,), options, 5).latents


@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "mixed"])
def test_a_song(pack, core, sets, model_folders, tiny_2b_split, relative_error, mixed):
    """Converted: the latents of the safetensors; quantised: nearly."""
    made = {}
    for kind in ("BF16", "Q8_0"):
        files = sets(kind)
        others = tiny_2b_split if mixed else files
        model_folders(**{**folders_of(others), "diffusion_models": files.model.parent})
        found = pack("host.sources").find_sources(files.model.name)
        made[kind] = pack("host.loader").load(found, "turbo", "auto")
    model_folders(**{**folders_of(tiny_2b_split)})
    plain = pack("host.loader").load(pack("host.sources").find_sources(tiny_2b_split.model.name), "turbo", "auto")
    silence = made["BF16"].conditioner.silence
    plain = SimpleNamespace(model=plain.model, conditioner=replace(plain.conditioner, silence=silence))
    wanted, whole, small = (song(pack, core, one) for one in (plain, made["BF16"], made["Q8_0"]))
    assert relative_error(whole, wanted) < 1e-5
    assert 0.999 < float(F.cosine_similarity(small.flatten(), wanted.flatten(), dim=0)) < 1
    told = pack("host.loader").told
    assert told(made["Q8_0"].model.model, made["Q8_0"].dtype) == "Q8_0 weights, computed in fp32"


def test_load_lm(pack, sets, load_planner, model_folders, tiny_2b_split):
    files = sets("Q8_0")
    model_folders(text_encoders=files.lm.parent)
    small = load_planner(files.lm.name)
    assert pack("host.loader").told(small.lm.model.module, small.lm.model.dtype) == "Q8_0 weights, computed in fp32"
    assert small.tokenizer == "of the file" and not small.lm.name.endswith(".gguf")
    model_folders(text_encoders=tiny_2b_split.lm.parent)
    full = load_planner(tiny_2b_split.lm.name)
    assert small.size == full.size and small.lm.model.owner.model_size() < full.lm.model.owner.model_size()
    ids = torch.arange(60)[None] + 5
    with torch.inference_mode():
        first, second = (one.lm.model.module.logits(one.lm.model.module(ids)) for one in (full, small))
    assert float(F.cosine_similarity(first.flatten(), second.flatten(), dim=0)) > 0.999
    assert float((first.argmax(-1) == second.argmax(-1)).float().mean()) > 0.8
