"""The decoder as a host MODEL: strict conditioning, honest memory, streaming, and our loop equal to the core's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

DEVICE = torch.device("cpu")


def song(core, **fields):
    return core("blueprint").Blueprint(**{"caption": "calm piano", "seconds": 10.0, **fields})


def sample(pack, core, loaded, blueprints, options=None, plain=False):
    """Latents through the host, or through the core alone."""
    generate = core("pipelines.generate")
    model = loaded.model.model
    decoder = pack("host.decoder").HostDecoder(loaded.model, 5)
    if plain:
        handle = core("runtime").Handle(model.diffusion_model.decoder, torch.float32)
        decoder = generate.PlainDecoder(handle, model.variant, model.variant.shift)
    runtime = pack("host.runtime").HostRuntime()
    if plain:
        runtime.place, runtime.device = place_plain(runtime)
    options = options or core("sampling.schedule").SamplingOptions(steps=3)
    with torch.inference_mode():
        return generate.generate(runtime, decoder, loaded.conditioner, blueprints, options, 5).latents


def place_plain(runtime):
    """The host's runtime, but networks without a patcher lie where they are."""
    place, device = runtime.place, runtime.device
    return (
        lambda handle, reserve=0: handle.module if handle.owner is None else place(handle, reserve),
        lambda handle: DEVICE if handle.owner is None else device(handle),
    )


def test_host_loop_equals_the_core_alone(pack, core, loaded, relative_error):
    songs = (song(core), song(core, lyrics="[Verse]\nla la la"))  # unequal lengths: the shorter one is masked
    ours, alone = (sample(pack, core, loaded, songs, plain=plain) for plain in (False, True))
    assert ours.shape == (2, 64, 250)
    assert relative_error(ours, alone) < 1e-5


def test_times_that_begin_below_one_start_from_the_noise_itself(pack, core, loaded, relative_error):
    options = core("sampling.schedule").SamplingOptions(times=(0.9, 0.5))
    ours, alone = (sample(pack, core, loaded, (song(core),), options, plain) for plain in (False, True))
    assert relative_error(ours, alone) < 1e-5


def test_streamed_weights_give_the_same_song(pack, core, fake_gpu, loaded):
    import comfy.model_management as management

    fake_gpu(1 << 40)
    whole = sample(pack, core, loaded, (song(core),))
    size = loaded.model.model_size()
    assert loaded.model.loaded_size() == size
    fake_gpu(size * 9 // 10)  # the host fills two fifths of the memory with weights and streams the rest
    streamed = sample(pack, core, loaded, (song(core),))
    assert 0 < loaded.model.loaded_size() < size
    assert torch.equal(streamed, whole)
    management.free_memory(1e30, loaded.model.load_device)
    assert loaded.model.loaded_size() == 0


def test_streamed_weights_meet_their_inputs_on_the_device(loaded, fake_gpu):
    """Device meta is a card that computes nothing but notices a tensor left behind, such as a raw parameter."""
    meta = torch.device("meta")
    decoder, text = loaded.model.model, loaded.conditioner.text.module
    condition, vae = loaded.conditioner.condition.module, loaded.vae.module
    calls = {
        decoder: lambda: decoder.diffusion_model(
            on(meta, 1, 64, 50), on(meta, 1), on(meta, 1, 9, 64), on(meta, 1, 128, 50)
        ),
        text: lambda: text(torch.zeros(1, 9, dtype=torch.long, device=meta)),
        condition: lambda: condition(on(meta, 1, 9, 32), on(meta, 1, 9, 32), on(meta, 1, 750, 64)),
        vae: lambda: vae.decode(on(meta, 1, 64, 20)),
    }
    for module, call in calls.items():
        owner = half_loaded(module, meta, fake_gpu)  # kept: the host holds models by weak references only
        assert {str(p.device) for p in module.parameters()} == {"meta", "cpu"}, type(module).__name__
        with torch.inference_mode():
            assert call().device == owner.load_device == meta


def on(device, *shape):
    return torch.zeros(shape, device=device)


def half_loaded(module, device, budget):
    """A patcher of the module that found room for a part of its weights."""
    import comfy.model_management as management
    import comfy.model_patcher

    patcher = comfy.model_patcher.ModelPatcher(module, load_device=device, offload_device=DEVICE)
    budget(patcher.model_size() * 9 // 10, device=device)
    management.load_models_gpu([patcher])
    patcher.detach = lambda **_: None  # its end would bring the weights home, and meta has none
    return patcher


def test_memory_is_what_the_core_counts(core, loaded):
    model, config = loaded.model.model, loaded.conditioner.config
    count = core("dit.config").activation_bytes
    got = model.memory_required([4, 64, 1500], cond_shapes={"c_crossattn": [[2, 300, 64], [2, 90, 64]]})
    assert got == count(config, 4, 1500, 300, torch.float32)
    assert model.memory_required([1, 64, 250]) == count(config, 1, 250, 1024, torch.float32)
    assert model.extra_conds_shapes(cross_attn=torch.zeros(2, 9, 64)) == {"c_crossattn": [2, 9, 64]}


def test_a_run_that_records_asks_for_the_memory_of_it_and_others_do_not(pack, core, loaded, monkeypatch):
    """From the load on, which is before the host says whose run it is; compiling alone needs none."""
    import comfy.sampler_helpers as helpers

    model, config, size = loaded.model.model, loaded.conditioner.config, (1, 250, 1024, torch.float32)
    plain, more = core("dit.config").activation_bytes(config, *size), core("dit.speed").recording_bytes(config, *size)
    monkeypatch.setattr(core("graphs").Graphs, "work_on", lambda self, device: not self.failed)
    asked = []
    monkeypatch.setattr(
        helpers, "_prepare_sampling", lambda *_, **__: asked.append(model.memory_required([1, 64, 250]))
    )
    fast, speed = pack("host.speed").speed_up(loaded.model, True, True)
    compiled = pack("host.speed").speed_up(loaded.model, True, False)[0]
    for run in (fast, fast.clone(), loaded.model, compiled):
        helpers.prepare_sampling(run, [1, 64, 250], {}, run.model_options)
        assert model.current_patcher is None
    speed.graphs.failed = "no"
    helpers.prepare_sampling(fast, [1, 64, 250], {}, fast.model_options)
    assert asked == [plain + more, plain + more, plain, plain, plain]


def test_keys_are_those_that_lora_files_name(loaded):
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(loaded.model.model, {})
    assert keys["diffusion_model.decoder.layers.0.self_attn.q_proj"].endswith("q_proj.weight")


def test_a_lora_changes_the_song_and_leaves_the_parent_alone(pack, core, loaded, relative_error, rng):
    import comfy.lora
    import comfy.lora_convert

    name, random = "diffusion_model.decoder.layers.1.mlp.down_proj", rng(0)
    lora = {
        f"{name}.lora_A.weight": torch.randn(4, 128, generator=random),
        f"{name}.lora_B.weight": torch.randn(64, 4, generator=random),
    }
    keys = comfy.lora.model_lora_keys_unet(loaded.model.model, {})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), keys)
    before = sample(pack, core, loaded, (song(core),))
    patched = loaded.model.clone()
    assert len(patched.add_patches(patches, 1.0)) == 1
    changed = sample(pack, core, SimpleNamespace(model=patched, conditioner=loaded.conditioner), (song(core),))
    assert relative_error(changed, before) > 1e-3
    assert torch.equal(sample(pack, core, loaded, (song(core),)), before)


RAW = "diffusion_model.decoder.scale_shift_table"


@pytest.mark.parametrize("share", [1.0, 0.9], ids=["whole", "streamed"])
def test_patches_reach_parameters_beside_layers(pack, core, loaded, fake_gpu, relative_error, share):
    """The host itself patches only layers, so a merge would keep the first model's tables without a word."""
    import comfy.model_management as management

    fake_gpu(1 << 40)
    before = sample(pack, core, loaded, (song(core),))
    table, size = loaded.model.model.diffusion_model.decoder.scale_shift_table.clone(), loaded.model.model_size()
    patched = loaded.model.clone()
    delta = 0.5 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    assert patched.add_patches({RAW: (delta,)}) == [RAW]
    fake_gpu(1 << 40 if share == 1.0 else int(size * share))
    changed = sample(pack, core, SimpleNamespace(model=patched, conditioner=loaded.conditioner), (song(core),))
    assert relative_error(changed, before) > 1e-3
    assert torch.equal(loaded.model.model.diffusion_model.decoder.scale_shift_table, table + delta)
    fake_gpu(1 << 40)
    assert torch.equal(sample(pack, core, loaded, (song(core),)), before)
    management.free_memory(1e30, loaded.model.load_device)
    assert torch.equal(loaded.model.model.diffusion_model.decoder.scale_shift_table, table)


def test_compiled_model_is_used_by_dit_sample(pack, core, loaded, relative_error):
    """TorchCompileModel with a backend that only counts what it is given."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    graphs = []
    compiled = loaded.model.clone()
    set_torch_compile_wrapper(model=compiled, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    before = sample(pack, core, loaded, (song(core),))
    after = sample(pack, core, SimpleNamespace(model=compiled, conditioner=loaded.conditioner), (song(core),))
    assert graphs and relative_error(after, before) < 1e-5


def test_a_model_of_another_kind_is_refused(pack):
    other = SimpleNamespace(model=torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="expected an ACE-Step 1.5 decoder, got Linear; connect"):
        pack("host.decoder").HostDecoder(other, 0)


def test_conditioning_of_another_model_is_refused(pack):
    with pytest.raises(ValueError, match="no ACE-Step 1.5 context.*EncodeSong"):
        pack("host.models").read_conditioning({"cross_attn": torch.zeros(1, 77, 768)})


def test_zeroed_tokens_become_the_null_token(pack):
    null, context = torch.full((1, 1, 4), 2.0), torch.zeros(1, 128, 5)
    given = {"cross_attn": torch.zeros(2, 3, 4), "acestep_context": context, "acestep_null": null}
    tokens, _ = pack("host.models").read_conditioning(given)
    assert torch.equal(tokens, torch.full((2, 3, 4), 2.0))


def test_joined_conditioning_is_refused(pack):
    with pytest.raises(ValueError, match="9 tokens, but a mask of 5"):
        pack("host.models").check_mask(torch.ones(1, 5), torch.zeros(1, 9, 4))


def test_conditioning_without_padding_has_no_mask_and_equal_halves(pack, core):
    batch = core("pipelines.encode").ConditionBatch(
        torch.randn(1, 7, 4), None, torch.randn(1, 250, 128), torch.ones(1, 1, 4)
    )
    (positive,), (negative,) = pack("host.decoder").conditioning(batch)
    assert positive[0].shape == negative[0].shape == (1, 7, 4)
    assert torch.equal(negative[0], torch.ones(1, 7, 4))
    assert positive[1]["acestep_context"].shape == (1, 128, 250)
    assert "acestep_token_mask" not in positive[1] and positive[1].keys() == negative[1].keys()


SHIFTS = {"AuraFlow, SD3": ("DiscreteFlow", 1.73), "Flux": ("Flux", math.log(1.73))}


@pytest.mark.parametrize(("kind", "shift"), SHIFTS.values(), ids=SHIFTS)
def test_shift_of_every_rectified_flow_is_read(pack, kind, shift):
    assert pack("host.models").flow_shift(sampling(kind, "CONST", shift=shift)) == pytest.approx(1.73, abs=1e-12)


@pytest.mark.parametrize(("kind", "prediction"), [("Discrete", "EPS"), ("Discrete", "CONST"), ("DiscreteFlow", "X0")])
def test_sampling_that_is_no_rectified_flow_is_refused(pack, kind, prediction):
    words = f"ModelSampling{kind} with {prediction}, but ACE-Step 1.5 is a rectified flow.*AuraFlow or SamplingOptions"
    with pytest.raises(ValueError, match=words):
        pack("host.models").flow_shift(sampling(kind, prediction))


def sampling(kind, prediction, **parameters):
    """A model_sampling as the host's ModelSampling nodes put it together."""
    import comfy.model_sampling as host

    made = type("Advanced", (getattr(host, f"ModelSampling{kind}"), getattr(host, prediction)), {})()
    if parameters:
        made.set_parameters(**parameters)
    return made


@pytest.mark.parametrize("multiplier", [1.0, 1000])
def test_decoder_gets_times_from_0_to_1(loaded, multiplier):
    model, seen = loaded.model.model, []
    model.model_sampling = sampling("DiscreteFlow", "CONST", shift=3.0, multiplier=multiplier)
    model.diffusion_model.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    given = {"c_crossattn": torch.zeros(1, 9, 64), "song_context": torch.zeros(1, 128, 50)}
    with torch.inference_mode():
        model.apply_model(torch.zeros(1, 64, 50), torch.tensor([0.75]), **given)
    assert float(seen[0]) == pytest.approx(0.75, abs=1e-7)
