"""Projections as one product: the same numbers, no byte more, and whatever the host does with weights still holds."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

NAMES = ("layers.0.self_attn.q_proj", "layers.1.mlp.up_proj")


@pytest.fixture
def fused(pack, monkeypatch):
    """The module, for which a faked card is worth it."""
    module = pack("host.fused")
    monkeypatch.setattr(module, "gains", lambda device: True)
    return module


@pytest.fixture
def load(pack, tiny_2b_split):
    """load(precision) -> the MODEL of the tiny decoder, made as in ComfyUI: in inference mode."""
    file = tiny_2b_split.model

    def make(precision="fp32"):
        with torch.inference_mode():
            return pack("host.loader").load_decoder(file, file, "turbo", precision)

    return make


@pytest.fixture
def deltas(pack, core, rng):
    """LoRAs on two matrices, each one of a group."""

    def make(model):
        shapes, random, low = pack("host.adapters").decoder_shapes(model), rng(3), core("adapters.delta").LowRank
        drawn = ((torch.randn(4, shapes[n][1], generator=random), shapes[n][0]) for n in NAMES)
        pairs = [(down, torch.randn(rows, 4, generator=random)) for down, rows in drawn]
        return {name: low(0.3 * down, 0.3 * up, 1.0) for name, (down, up) in zip(NAMES, pairs, strict=True)}

    return make


class Products:
    """Counts products with weights."""

    def __enter__(self):
        self.count, self._linear = 0, F.linear
        F.linear = self._counted
        return self

    def __exit__(self, *how):
        F.linear = self._linear

    def _counted(self, *given):
        self.count += 1
        return self._linear(*given)


def velocity(model, rng, load=True):
    """One call of the host's model at fixed numbers [1, 64, 50]."""
    import comfy.model_management as management

    with torch.inference_mode():
        if load:
            management.load_models_gpu([model])
    place, random = model.load_device, rng(4)
    x, context = torch.randn(1, 64, 50, generator=random), torch.randn(1, 128, 50, generator=random)
    tokens = torch.randn(1, 9, 64, generator=random)
    with torch.inference_mode():
        return model.model.apply_model(
            x.to(place), torch.tensor([0.7], device=place), c_crossattn=tokens.to(place), song_context=context.to(place)
        )


def products(model, rng):
    with Products() as counted:
        velocity(model, rng, load=False)
    return counted.count


def storage_bytes(model):
    """What the storages of all weights take, each once."""
    storages = {value.untyped_storage()._cdata: value.untyped_storage().nbytes() for value in model.model.parameters()}
    return sum(storages.values())


def together(fused, model):
    """How many groups lie as one, and how many there are."""
    groups = list(fused.find_groups(model.model))
    return sum(fused.lies_together(group) for group in groups), len(groups)


@pytest.fixture
def plain(pack, load, rng, fake_gpu):
    """Velocity with each layer by itself, products of a step, and the bytes of the weights."""
    fake_gpu(1 << 40)
    model = load()
    assert together(pack("host.fused"), model)[0] == 0
    made = velocity(model, rng)
    found = together(pack("host.fused"), model)
    assert found[0] == 0, "a CPU does not gain"
    return made, products(model, rng), storage_bytes(model)


def test_one_product_a_group_the_same_numbers_and_no_byte_more(plain, fused, load, rng, relative_error):
    model = load()
    state = copy.deepcopy(model.model.state_dict())
    made = velocity(model, rng)
    done, groups = together(fused, model)
    assert done == groups > 0
    assert relative_error(made, plain[0]) < 1e-6
    layers = len(model.model.diffusion_model.decoder.layers)
    # q, k, v and gate, up of each layer; keys and values of the condition, which no run told
    assert plain[1] - products(model, rng) == layers * (2 + 1 + 1)
    assert storage_bytes(model) == plain[2]
    now = model.model.state_dict()
    assert now.keys() == state.keys()
    assert all(torch.equal(now[key], value) for key, value in state.items())
    assert not any(weight.is_inference() for group in fused.find_groups(model.model) for weight in weights(group))


def weights(group):
    return [layer.weight for layer in group]


def test_room_for_one_group_more_is_enough(plain, fused, load, rng, monkeypatch):
    model, seen = load(), []
    before, join = storage_bytes(model), fused.join

    def watch(group):
        join(group)
        seen.append(storage_bytes(model))

    monkeypatch.setattr(fused, "join", watch)
    velocity(model, rng)
    assert seen
    assert set(seen) == {before}


def test_streamed_is_resident(plain, fused, load, rng, fake_gpu, relative_error):
    model = load()
    whole = velocity(model, rng)
    fake_gpu(model.model_size() * 9 // 10)
    streamed = velocity(model, rng)
    assert 0 < model.loaded_size() < model.model_size()
    assert torch.equal(streamed, plain[0])
    assert relative_error(whole, streamed) < 1e-6


@pytest.fixture
def leaving(monkeypatch):
    """Makes layers that are sent away get a storage of their own, as on another device; gives those that went."""
    gone = []

    def to(layer, *place, **more):
        gone.append(layer)
        layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
        return layer

    monkeypatch.setattr(torch.nn.Linear, "to", to)
    return gone


def unload_some(fused, model, gone):
    """Unload part of a network that lies together: (groups that stay whole, groups of which some went)."""
    gone.clear()
    model.partially_unload(torch.device("cpu"), model.model_size() // 8)
    left, groups = {id(layer) for layer in gone}, list(fused.find_groups(model.model))
    whole = [group for group in groups if not any(id(layer) in left for layer in group)]
    broken = [group for group in groups if any(id(layer) in left for layer in group)]
    some = [group for group in broken if not all(id(layer) in left for layer in group)]
    return whole, some


def test_what_leaves_frees_its_place(plain, fused, load, rng, leaving, relative_error):
    """The layers that stay hold no storage of those that went, a clone minds that too; other groups stay together."""
    model = load().clone()
    velocity(model, rng)
    whole, some = unload_some(fused, model, leaving)
    assert whole and some
    assert all(fused.lies_together(group) for group in whole)
    assert all(weight.untyped_storage().nbytes() == weight.nbytes for group in some for weight in weights(group))
    assert storage_bytes(model) == plain[2]
    assert relative_error(velocity(model, rng, load=False), plain[0]) < 1e-6


def test_without_room_for_a_copy_what_stays_goes_by_way_of_the_main_memory(
    plain, fused, load, rng, leaving, monkeypatch, relative_error
):
    model, sent = load(), []
    velocity(model, rng)

    def full(weight, *how, **more):
        raise torch.cuda.OutOfMemoryError("no room")

    def send(weight, place, **how):
        sent.append((torch.device(place), how))
        return plain_to(weight, place, **how)

    plain_to, apart = torch.Tensor.to, fused._take_apart

    def take_apart(stayed, rest):
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "clone", full)
            patched.setattr(torch.Tensor, "to", send)
            apart(stayed, rest)

    monkeypatch.setattr(fused, "_take_apart", take_apart)
    whole, some = unload_some(fused, model, leaving)
    assert whole and some
    stayed = sum(not any(layer is other for other in leaving) for group in some for layer in group)
    assert sorted(how != {} for _, how in sent) == [False] * stayed + [True] * stayed, "there and back"
    assert all(weight.untyped_storage().nbytes() == weight.nbytes for group in some for weight in weights(group))
    assert storage_bytes(model) == plain[2]
    assert relative_error(velocity(model, rng, load=False), plain[0]) < 1e-6


def test_unloaded_and_loaded_again(plain, fused, load, rng, fake_gpu):
    import comfy.model_management as management

    model = load()
    first = velocity(model, rng)
    management.free_memory(1e30, model.load_device)
    assert model.loaded_size() == 0
    assert torch.equal(velocity(model, rng), first)
    done, groups = together(fused, model)
    assert done == groups


def test_a_patched_group_computes_layer_by_layer_until_the_patch_goes(
    pack, plain, fused, load, deltas, rng, monkeypatch, relative_error
):
    model = load()
    before, state = velocity(model, rng), copy.deepcopy(model.model.state_dict())
    played = pack("host.adapters").apply(model, deltas(model), 0.7)
    changed = velocity(played, rng)
    done, groups = together(fused, model)
    assert done == groups - len(NAMES)
    monkeypatch.setattr(fused, "gains", lambda device: False)
    assert relative_error(changed, velocity(played, rng, load=False)) < 1e-6
    assert relative_error(changed, before) > 1e-3
    monkeypatch.setattr(fused, "gains", lambda device: True)
    assert torch.equal(velocity(model, rng), before)
    done, groups = together(fused, model)
    assert done == groups
    assert all(torch.equal(model.model.state_dict()[key], value) for key, value in state.items())
    assert storage_bytes(model) == plain[2]


def test_a_patch_in_place_is_seen(plain, fused, load, rng, monkeypatch, relative_error):
    """As hooks write: into the weight that is there."""
    import comfy.utils

    model = load()
    before = velocity(model, rng)
    key = f"diffusion_model.decoder.{NAMES[1]}.weight"
    comfy.utils.copy_to_param(model.model, key, 1.5 * comfy.utils.get_attr(model.model, key))
    made, counted = velocity(model, rng, load=False), products(model, rng)
    assert counted < plain[1], "still as one"
    assert relative_error(made, before) > 1e-3
    monkeypatch.setattr(fused, "gains", lambda device: False)
    assert relative_error(made, velocity(model, rng, load=False)) < 1e-6


@pytest.mark.parametrize("how", ["weight_function", "forward hook", "forward", "another layer", "gradient"])
def test_whoever_changes_a_layer_is_heard(plain, fused, load, rng, how):
    model = load()
    velocity(model, rng)
    attention = model.model.diffusion_model.decoder.layers[0].self_attn
    layer, x, called = attention.k_proj, torch.randn(2, 3, attention.q_proj.weight.shape[1]), []
    if how == "weight_function":
        layer.weight_function = [lambda weight: called.append(1) or weight]
    elif how == "forward hook":
        layer.register_forward_hook(lambda *_: called.append(1))
    elif how == "forward":
        layer.forward = lambda x: called.append(1)
    elif how == "another layer":
        attention.k_proj = Wrapped(layer, called)
    else:
        layer.register_forward_hook(lambda *_: called.append(1))
    with torch.inference_mode(how != "gradient"):
        fused.joined((attention.q_proj, attention.k_proj, attention.v_proj), x)
    assert called == [1]


class Wrapped(torch.nn.Module):
    def __init__(self, inner, called):
        super().__init__()
        self.inner, self.called = inner, called

    @property
    def weight(self):
        return self.inner.weight

    def forward(self, x):
        self.called.append(1)
        return self.inner(x)


def test_layers_that_cast_compute_by_themselves(fused):
    """bf16 weights that are computed in fp32."""
    import comfy.ops

    group = [comfy.ops.manual_cast.Linear(8, rows, bias=False, dtype=torch.bfloat16) for rows in (6, 4)]
    for layer in group:
        torch.nn.init.normal_(layer.weight)
    fused.join(group)
    assert fused.lies_together(group)
    for dtype, expected in ((torch.float32, 2), (torch.bfloat16, 1)):
        with torch.inference_mode(), Products() as counted:
            made = fused.joined(group, torch.ones(1, 3, 8, dtype=dtype))
        assert counted.count == expected
        assert [(part.shape[-1], part.dtype) for part in made] == [(6, dtype), (4, dtype)]


def test_a_saved_model_holds_every_weight_once(plain, fused, load, rng, tmp_path):
    model = load()
    velocity(model, rng)
    written = model.model.state_dict_for_saving()
    save_file(written, tmp_path / "mine.safetensors")
    read = load_file(tmp_path / "mine.safetensors")
    assert all(torch.equal(read[key], value) for key, value in written.items())
    assert (tmp_path / "mine.safetensors").stat().st_size < plain[2] * 1.05 + 20_000


def test_int8_stays_untouched(fused, load, rng, fake_gpu):
    fake_gpu(1 << 40)
    model = load("int8")
    velocity(model, rng)
    state = {key: value.data_ptr() for key, value in model.model.state_dict().items()}
    fused.join_weights(model)
    assert together(fused, model)[0] == 0
    assert state == {key: value.data_ptr() for key, value in model.model.state_dict().items()}


def test_where_weights_come_at_their_use_nothing_is_moved(fused, load, rng, fake_gpu, monkeypatch):
    fake_gpu(1 << 40)
    model = load()
    monkeypatch.setattr(type(model), "is_dynamic", lambda self: True, raising=False)
    fused.join_weights(model)
    assert together(fused, model)[0] == 0


def test_a_patcher_that_takes_nothing_apart_brings_nothing_together(fused, load, rng, fake_gpu):
    """Newer hosts make a clone of their plain class, and give it the callbacks."""
    import comfy.model_patcher

    fake_gpu(1 << 40)
    model = load()
    model.__class__ = comfy.model_patcher.ModelPatcher
    velocity(model.clone(), rng)
    assert together(fused, model)[0] == 0


def test_without_room_it_goes_on_layer_by_layer_and_says_so_once(plain, fused, load, rng, monkeypatch, caplog):
    def full(group):
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(fused, "join", full)
    with caplog.at_level(logging.WARNING):
        made = velocity(load(), rng)
    assert torch.equal(made, plain[0])
    assert [record.message for record in caplog.records if "no room" in record.message] == [
        "Too little memory to bring weights together; the layers compute one by one: no room"
    ]


@pytest.mark.slow
def test_a_planner_writes_the_same_codes(fused, pack, core, load_planner, model_folders, tiny_2b_split, fake_gpu):
    model_folders(text_encoders=tiny_2b_split.lm.parent)
    fake_gpu(1 << 40)
    request = core("planner.decode").CodesRequest(((5, 300, 17, 4),), (9, 2), 12, (3,))
    songs = []
    for gains in (False, True):
        fused.gains = lambda device, gains=gains: gains
        lm, runtime = load_planner(tiny_2b_split.lm.name).lm, pack("host.runtime").HostRuntime()
        songs.append(core("planner.decode").write_codes(runtime, lm, request))
        groups = list(fused.find_groups(lm.model.module))
        assert sum(fused.lies_together(group) for group in groups) == gains * len(groups)
    assert songs[0] == songs[1]


def test_only_other_devices_than_a_cpu_gain(pack):
    gains = pack("host.fused").gains
    places = ("cpu", "meta", "cuda", "mps", "xpu")
    assert [gains(torch.device(place)) for place in places] == [False, False, True, True, True]
