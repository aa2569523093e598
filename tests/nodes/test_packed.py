"""Weights in int8 under the host: streamed as resident, patched as what they stand for, and given back bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

NAMES = ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj", "layers.2.cross_attn.v_proj")


def packed_layers(pack, module):
    kind = pack("host.packed").HostPackedLinear
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kind)}


def bytes_of(model):
    """What the numbers of a MODEL really take."""
    return sum(value.nbytes for value in (*model.model.parameters(), *model.model.buffers()))


@pytest.fixture
def load(pack, tiny_2b_split):
    """load(precision) -> the MODEL of the tiny decoder; a test that fakes a card asks for that first."""
    file = tiny_2b_split.model
    return lambda precision="int8": pack("host.loader").load_decoder(file, file, "turbo", precision)


@pytest.fixture
def unpacked(pack, load):
    """unpacked(model) -> a MODEL in fp32 whose weights are the numbers that those of an int8 one stand for."""

    def make(model):
        plain = load("fp32")
        layers = packed_layers(pack, model.model.diffusion_model.decoder)
        for name, layer in layers.items():
            plain.model.diffusion_model.decoder.get_submodule(name).weight = torch.nn.Parameter(
                layer.unpacked(), requires_grad=False
            )
        return plain

    return make


@pytest.fixture
def deltas(pack, core, rng):
    """LoRAs on three matrices of a MODEL."""

    def make(model):
        shapes, random = pack("host.adapters").decoder_shapes(model), rng(3)
        low = core("adapters.delta").LowRank
        drawn = {
            n: (torch.randn(4, shapes[n][1], generator=random), torch.randn(shapes[n][0], 4, generator=random))
            for n in NAMES
        }
        return {name: low(0.3 * down, 0.3 * up, 1.0) for name, (down, up) in drawn.items()}

    return make


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


def test_a_lora_on_top_is_one_on_the_numbers_they_stand_for(pack, load, unpacked, deltas, rng, relative_error):
    model = load()
    before, stored = velocity(model, rng), copy.deepcopy(model.model.diffusion_model.state_dict())
    plain = unpacked(model)
    assert relative_error(before, velocity(plain, rng)) < 1e-5
    apply = pack("host.adapters").apply
    changed = velocity(apply(model, deltas(model), 0.7), rng)
    assert relative_error(changed, before) > 1e-3
    assert relative_error(changed, velocity(apply(plain, deltas(plain), 0.7), rng)) < 1e-5
    assert torch.equal(velocity(model, rng), before)
    now = model.model.diffusion_model.state_dict()
    assert all(torch.equal(now[key], value) and now[key].dtype == value.dtype for key, value in stored.items())


def test_patched_weights_are_kept_in_full_and_counted(pack, load, deltas, fake_gpu, rng):
    fake_gpu(1 << 40)
    model = load()
    played = pack("host.adapters").apply(model, deltas(model), 1.0)
    velocity(played, rng)
    layers = packed_layers(pack, played.model.diffusion_model.decoder)
    full = {name for name, layer in layers.items() if layer.weight.dtype == torch.float32}
    assert full == set(NAMES)
    assert played.loaded_size() == bytes_of(played) > played.model_size()
    velocity(model, rng)
    assert model.loaded_size() == model.model_size() == bytes_of(model)


def test_memory_moves_with_the_manager(load, fake_gpu, rng):
    import comfy.model_management as management

    fake_gpu(1 << 40)
    small, full = load(), load("fp32")
    assert small.model_size() < 0.6 * full.model_size()
    velocity(small, rng)
    assert small.loaded_size() == small.model_size() == bytes_of(small)
    management.free_memory(1e30, small.load_device)
    assert small.loaded_size() == 0


def test_merging_takes_the_numbers_they_stand_for(load, unpacked, rng, relative_error):
    model, other = load(), load("fp32")
    plain = unpacked(model)
    wanted, got = other.clone(), other.clone()
    for merged, tuned in ((wanted, plain), (got, model)):
        for key, value in tuned.get_key_patches("diffusion_model.").items():
            merged.add_patches({key: value}, 0.5, 0.5)
    assert relative_error(velocity(got, rng), velocity(wanted, rng)) < 1e-5


def merge(model, other):
    """Half of one, half of the other, as ModelMergeSimple makes it."""
    merged = model.clone()
    for key, value in other.get_key_patches("diffusion_model.").items():
        merged.add_patches({key: value}, 0.5, 0.5)
    return merged


def test_a_model_is_read_as_itself_while_a_merge_of_it_is_loaded(pack, load, rng):
    """C + A while A + B has changed the weights of A: its packed numbers belong to its own scales."""
    models = [load() for _ in range(3)]
    layers = [packed_layers(pack, one.model.diffusion_model.decoder) for one in models]
    for index, own in enumerate(layers):
        for layer in own.values():
            layer.scale_weight.mul_(1 + 4 * index)
    meant = [{name: layer.unpacked() for name, layer in own.items()} for own in layers]
    stored = [copy.deepcopy(one.model.diffusion_model.state_dict()) for one in models]
    (a, b, c), (in_a, _, in_c) = models, layers
    first, second = merge(a, b), merge(c, a)
    first.patch_model()
    late = merge(c, a)  # asked for while A is patched
    try:
        for name in NAMES:
            assert torch.equal(in_a[name].weight, 0.5 * meant[0][name] + 0.5 * meant[1][name]), name
        for merged in (second, late):
            merged.patch_model()
            for name in NAMES:
                assert torch.equal(in_c[name].weight, 0.5 * meant[2][name] + 0.5 * meant[0][name]), name
            merged.unpatch_model()
    finally:
        first.unpatch_model()
    for one, before in zip(models, stored, strict=True):
        now = one.model.diffusion_model.state_dict()
        assert now.keys() == before.keys()
        assert all(torch.equal(now[key], value) and now[key].dtype == value.dtype for key, value in before.items())


@pytest.mark.parametrize("resident", [False, True], ids=["not loaded", "loaded"])
def test_weights_have_the_same_names_in_any_precision(pack, core, load, deltas, rng, relative_error, resident):
    """As ExtractLoRA and training read them, a LoRA on top."""
    weights, low = pack("host.weights"), load("bf16")
    base, plain = load(), low
    tuned = pack("host.adapters").apply(base, deltas(base), 1.0)
    if resident:
        velocity(tuned, rng)
    full = weights.DecoderWeights(plain, torch.device("cpu"))
    for model in (tuned, base):
        made = weights.DecoderWeights(model, torch.device("cpu"))
        assert set(made) == set(full) and len(made) == len(full)
    pair = weights.decoder_pair(tuned, base)
    for name in (f"{one}.weight" for one in NAMES):
        changed, whole = (one[name] for one in pair)
        assert relative_error(whole, full[name]) < 0.02 < relative_error(changed, full[name])
    adapter = core("adapters.change").extract(pair[1], pair[0], 4, pack("host.runtime").HostRuntime())
    assert set(adapter.deltas) == set(NAMES)


def test_what_int8_cannot_take_is_said(pack, load, rng):
    model = load()
    layer = packed_layers(pack, model.model.diffusion_model.decoder)[NAMES[0]]
    with pytest.raises(ValueError, match="HookLoRA.*ApplyLoRA, or load a file that is not quantised"):
        layer.set_weight(layer.unpacked(), inplace_update=True)
    layer.weight_function = [lambda weight: weight]
    with pytest.raises(ValueError, match="wraps the weights of the model"):
        layer(torch.zeros(1, layer.in_features))


def test_load_dit_keeps_every_network_in_int8(pack, core, loaded, tiny_2b_split, relative_error):
    small = pack("host.loader").load(pack("host.sources").find_sources(tiny_2b_split.model.name), "turbo", "int8")
    for name in ("text", "condition", "detokenizer"):
        assert packed_layers(pack, getattr(small.conditioner, name).module), name
    assert not packed_layers(pack, small.conditioner.code_tokenizer.module)
    made, wanted = (song(pack, core, which) for which in (small, loaded))
    alike = F.cosine_similarity(made.flatten(), wanted.flatten(), dim=0)
    assert 0.999 < float(alike) < 1


def song(pack, core, loaded):
    """Latents [1, 64, 250] of ten seconds."""
    runtime, decoder = pack("host.runtime").HostRuntime(), pack("host.decoder").HostDecoder(loaded.model, 5)
    options = core("sampling.schedule").SamplingOptions(steps=2)
    blueprint = core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    with torch.inference_mode():
        return (
            core("pipelines.generate").generate(runtime, decoder, loaded.conditioner, (blueprint,), options, 5).latents
        )


def test_a_planner_writes_nearly_the_same_codes(pack, core, rng):
    """Greedy next codes after prompts of random tokens, of a planner of random weights."""
    network, packed = core("qwen3.model"), core("loading.packed")
    config = network.Qwen3Config(700, 64, 128, 4, 4, 2, head_dim=16)
    ops = pack("host.ops").casting_ops()
    whole = network.Qwen3(config, ops).requires_grad_(False)
    small = network.Qwen3(config, ops).requires_grad_(False)
    state = {
        name: torch.ones_like(value) if "norm" in name else 0.3 * torch.randn(value.shape, generator=rng(index))
        for index, (name, value) in enumerate(whole.state_dict().items())
    }
    whole.load_state_dict(state)
    packed.pack_layers(small, "lm", packed.Packing(pack("host.packed").HostPackedLinear, torch.float32))
    numbers = {}
    for name, value in state.items():
        layer = name.removesuffix(".weight")
        numbers |= packed.pack_weight(layer, value) if packed.is_packed("lm", layer) else {name: value}
    small.load_state_dict(numbers, assign=True)
    ids = torch.randint(0, 700, (8, 64), generator=rng(99))
    with torch.inference_mode():
        first, second = (net.logits(net(ids))[..., 600:].argmax(-1) for net in (whole, small))
    assert 0.9 < float((first == second).float().mean()) < 1


@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
def test_a_saved_decoder_loads_again(pack, load, deltas, rng, relative_error, tiny_2b_split, tmp_path, with_lora):
    """As ModelSave writes it: what is packed with its scales, what was patched without."""
    model = load()
    played = pack("host.adapters").apply(model, deltas(model), 1.0) if with_lora else model
    before = velocity(played, rng)
    written = played.model.state_dict_for_saving()
    save_file({key: value.contiguous() for key, value in written.items()}, tmp_path / "mine.safetensors")
    again = pack("host.loader").load_decoder(tmp_path / "mine.safetensors", tiny_2b_split.model, "turbo", "fp32")
    assert len(packed_layers(pack, again.model)) == len(packed_layers(pack, model.model)) - 3 * with_lora
    assert relative_error(velocity(again, rng), before) < 1e-6


def test_fp8_files_stay_in_fp8(pack, unpacked, deltas, rng, relative_error, tiny_2b_split, tmp_path):
    """A file with scales: computed, patched and reported as what it is, whatever precision is chosen."""
    tensors, path = load_file(tiny_2b_split.model), tmp_path / "fp8.safetensors"
    for name, value in list(tensors.items()):
        layer = name.removesuffix(".weight")
        if name.startswith("decoder.layers.") and layer.endswith("_proj"):
            tensors[name], tensors[f"{layer}.scale_weight"] = (100 * value).to(torch.float8_e4m3fn), torch.tensor(0.01)
    with safe_open(tiny_2b_split.model, framework="pt") as file:
        save_file(tensors, path, file.metadata())
    model = pack("host.loader").load_decoder(path, path, "turbo", "fp32")
    assert pack("host.packed").packed_as(model.model) == "fp8" and model.model_size() == bytes_of(model)
    plain, apply = unpacked(model), pack("host.adapters").apply
    assert relative_error(velocity(model, rng), velocity(plain, rng)) < 1e-5
    tuned = [velocity(apply(each, deltas(each), 0.7), rng) for each in (model, plain)]
    assert relative_error(*tuned) < 1e-5


def test_load_lm_in_int8(pack, load_planner, model_folders, tiny_2b_split):
    model_folders(text_encoders=tiny_2b_split.lm.parent)
    small, full = load_planner(tiny_2b_split.lm.name, "int8"), load_planner(tiny_2b_split.lm.name)
    assert len(packed_layers(pack, small.lm.model.module)) == 14
    assert small.lm.model.owner.model_size() < full.lm.model.owner.model_size()
    assert pack("host.loader").told(small.lm.model.module, small.lm.model.dtype) == "int8 weights, computed in fp32"
    assert small.size == full.size


def test_nothing_is_read_past_a_layer(pack, load, rng):
    """The decoder computes with weights only through its layers: other layers of one name give another velocity."""
    model = load()
    before = velocity(model, rng)
    for layer in packed_layers(pack, model.model.diffusion_model.decoder).values():
        layer.scale_weight.mul_(1.5)
    assert not torch.allclose(velocity(model, rng), before)


def test_newer_hosts_bring_it_in_as_a_whole(pack, load, monkeypatch):
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):
        pass

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic, raising=False)
    assert not isinstance(load(), Dynamic) and isinstance(load("fp32"), Dynamic)
