"""Adapters through the host: whole, streamed and hooked weights alike, and the parent as it was."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

QUERY, UP = "layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"
IN, OUT = "proj_in.1", "proj_out.1"  # Conv1d and ConvTranspose1d: what they do to taps shows
PREFIX = "diffusion_model.decoder."


@pytest.fixture
def adapters(pack):
    return pack("host.adapters")


@pytest.fixture
def loaded(pack, tiny_2b_split):
    """The decoder alone; a test that fakes a card asks for that first."""
    file = tiny_2b_split.model
    return SimpleNamespace(model=pack("host.loader").load_decoder(file, file, "turbo", "fp32"))


@pytest.fixture
def shapes(adapters, loaded):
    return adapters.decoder_shapes(loaded.model)


@pytest.fixture
def deltas(core, shapes, rng):
    """deltas(*kinds) -> a delta of each kind, on a module of its own, and what it makes of a weight at strength 1."""
    kinds, random = core("adapters.delta"), rng(3)

    def draw(*shape):
        return 0.3 * torch.randn(shape, generator=random)

    def lora(rows, columns):
        down, up = draw(4, columns), draw(rows, 4)
        return kinds.LowRank(down, up, 2.0), lambda w: w + 2.0 * (up @ down)

    def lokr(rows, columns):
        left, right = draw(4, 4), draw(rows // 4, columns // 4)
        return kinds.LoKr((left,), (right,), 0.5), lambda w: w + 0.5 * torch.kron(left, right)

    def loha(rows, columns):
        a, b, c, d = draw(rows, 3), draw(3, columns), draw(rows, 3), draw(3, columns)
        return kinds.LoHa((a, b), (c, d), 1.5), lambda w: w + 1.5 * (a @ b) * (c @ d)

    def full(rows, columns):
        diff = draw(rows, columns)
        return kinds.Full(diff), lambda w: w + diff

    def dora(rows, columns):
        down, up, lengths = draw(4, columns), draw(rows, 4), 1.0 + draw(rows).abs()
        delta = kinds.DoRA(kinds.LowRank(down, up, 1.0), lengths)

        def merged(w):
            turned = w + up @ down
            return lengths[:, None] * turned / turned.norm(dim=1, keepdim=True)

        return delta, merged

    makers = {"lora": lora, "lokr": lokr, "loha": loha, "full": full, "dora": dora}

    def make(*wanted):
        places = dict(zip(wanted, (QUERY, UP, IN, OUT, "layers.2.cross_attn.k_proj"), strict=False))
        made = {}
        for kind, name in places.items():
            rows, *rest = shapes[name]
            made[name] = makers[kind](rows, torch.Size(rest).numel())
        return {name: pair[0] for name, pair in made.items()}, {name: pair[1] for name, pair in made.items()}

    return make


KINDS = ("lora", "lokr", "loha", "full", "dora")


def weights(model, names):
    state = model.model.diffusion_model.decoder.state_dict()
    return {name: state[f"{name}.weight"].detach().clone() for name in names}


@contextlib.contextmanager
def resident(*models):
    import comfy.model_management as management

    management.load_models_gpu(list(models))
    yield
    management.free_memory(1e30, models[0].load_device)


def velocity(model):
    """One call of the host's model at fixed numbers [2, 64, 50]."""
    import comfy.model_management as management

    random = torch.Generator().manual_seed(1)
    x, tokens, context = (torch.randn(shape, generator=random) for shape in ((2, 64, 50), (2, 9, 64), (2, 128, 50)))
    with torch.inference_mode():
        management.load_models_gpu([model])
        return model.model.apply_model(x, torch.tensor([0.5, 0.5]), c_crossattn=tokens, song_context=context).clone()


@pytest.mark.parametrize("strength", [1.0, -1.5, 0.25])
def test_every_kind_becomes_what_its_formula_says(adapters, loaded, deltas, strength, relative_error):
    given, formulas = deltas(*KINDS)
    before = weights(loaded.model, given)
    patched = adapters.apply(loaded.model, given, strength)
    with resident(patched):
        after = weights(patched, given)
    for name, formula in formulas.items():
        rows = before[name].flatten(1)
        expected = (rows + strength * (formula(rows) - rows)).reshape(before[name].shape)
        assert relative_error(after[name], expected) < 1e-6, name
        assert relative_error(after[name], before[name]) > 1e-2, name


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_is_resident_and_the_parent_stays(fake_gpu, adapters, loaded, deltas, relative_error, kind):
    given, _ = deltas(kind)
    names = [*given, "layers.3.mlp.down_proj"]
    fake_gpu(1 << 40)
    bare, before = velocity(loaded.model), weights(loaded.model, names)
    patched = adapters.apply(loaded.model, given, 0.8)
    whole = velocity(patched)
    assert patched.loaded_size() == patched.model_size()
    fake_gpu(patched.model_size() // 20)
    streamed = velocity(patched)
    assert patched.loaded_size() < patched.model_size() and patched.lowvram_patch_counter() == 1
    assert relative_error(whole, bare) > 1e-3 and relative_error(streamed, whole) < 1e-6
    fake_gpu(1 << 40)
    assert torch.equal(velocity(loaded.model), bare)
    after = weights(loaded.model, names)
    assert all(torch.equal(after[name], before[name]) for name in names)
    assert loaded.model.patches == {} and patched.model is loaded.model.model


@pytest.mark.parametrize("pair", [("lora", "lokr"), ("lora", "dora")])
def test_streamed_is_resident_with_two_on_one_weight(fake_gpu, adapters, loaded, deltas, relative_error, pair):
    (one, _), (two, _) = (deltas(kind) for kind in pair)
    fake_gpu(1 << 40)
    single = adapters.apply(loaded.model, one, 0.8)
    alone = velocity(single)
    both = adapters.apply(single, two, 0.5)
    whole = velocity(both)
    assert {key: len(patches) for key, patches in both.patches.items()} == {f"{PREFIX}{QUERY}.weight": 2}
    fake_gpu(both.model_size() // 20)
    streamed = velocity(both)
    assert both.loaded_size() < both.model_size() and both.lowvram_patch_counter() == 1
    assert relative_error(whole, alone) > 1e-4 and relative_error(streamed, whole) < 1e-6


def test_strength_0_and_nothing_to_add_return_the_model_itself(adapters, loaded, deltas):
    given, _ = deltas("lora")
    assert adapters.apply(loaded.model, given, 0.0) is loaded.model
    assert adapters.apply(loaded.model, {}, 1.0) is loaded.model


def test_adapters_add_up_in_any_order_and_beside_the_hosts_own(adapters, loaded, deltas, relative_error):
    import comfy.weight_adapter

    (one, _), (two, _) = deltas("lora"), deltas("lora")
    down, up = torch.randn(2, 64), torch.randn(64, 2)
    theirs = comfy.weight_adapter.LoRAAdapter(set(), (0.01 * up, down, 2.0, None, None, None))
    before = weights(loaded.model, [QUERY])[QUERY]
    ours = adapters.apply(adapters.apply(loaded.model, one, 0.5), two, -1.0)
    other = adapters.apply(adapters.apply(loaded.model, two, -1.0), one, 0.5)
    for model in (ours, other):
        model.add_patches({f"{PREFIX}{QUERY}.weight": theirs}, 1.0)
        with resident(model):
            got = weights(model, [QUERY])[QUERY]
        expected = before + 0.5 * one[QUERY].matrix() - two[QUERY].matrix() + 0.01 * up @ down
        assert relative_error(got, expected) < 1e-6


def test_a_patch_for_a_part_of_a_weight_reaches_only_that_part(adapters, core, loaded):
    """The host narrows a weight and reads the whole again; such keys come from other nodes."""
    import comfy.lora

    kinds = core("adapters.delta")
    delta = adapters.HostDelta(set(), (kinds.Full(torch.ones(2, 3)),))
    patch = (2.0, delta, 1.0, (0, 1, 2), lambda change: 10 * change)
    got = comfy.lora.calculate_weight([patch], torch.zeros(4, 3), "key")
    assert got.tolist() == [[0.0] * 3, [20.0] * 3, [20.0] * 3, [0.0] * 3]


def test_numbers_are_added_in_float32_and_kept_as_the_weight_is(adapters, core):
    import comfy.lora

    kinds = core("adapters.delta")
    weight, small = torch.full((2, 2), 256.0, dtype=torch.bfloat16), torch.full((2, 2), 1.0)
    delta = adapters.HostDelta(set(), (kinds.LowRank(small[:1] * 2, small[:, :1] * 0.75),))
    got = comfy.lora.calculate_weight([(1.0, delta, 1.0, None, None)], weight, "key", torch.bfloat16)
    assert got.dtype == torch.bfloat16 and got.eq(258.0).all()  # 257.5 rounds to the next bf16 number
    rebuilt = type(delta)(delta.loaded_keys, delta.weights)  # as newer hosts do
    assert rebuilt.calculate_weight(torch.zeros(2, 2), "key", 1.0, 1.0, None, None).eq(1.5).all()


def test_a_module_that_the_model_lacks_is_an_error(adapters, core, loaded):
    delta = core("adapters.delta").Full(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"no diffusion_model\.decoder\.layers\.9\.mlp\.up_proj\.weight"):
        adapters.apply(loaded.model, {"layers.9.mlp.up_proj": delta}, 1.0)
    with pytest.raises(ValueError, match="nothing arrives"):
        adapters.apply(None, {QUERY: delta}, 0.0)


@pytest.fixture
def song(core, pack, loaded):
    """song(model, hooks, sigmas, start) -> latents of the host's euler with a hooked conditioning."""
    import comfy.hooks
    import comfy.sample
    import comfy.samplers

    batch_of = pack("host.decoder").conditioning
    random = torch.Generator().manual_seed(2)
    tokens, context = torch.randn(1, 9, 64, generator=random), torch.randn(1, 50, 128, generator=random)
    noise = torch.randn(1, 64, 50, generator=random)
    batch = SimpleNamespace(tokens=tokens, context=context, mask=None, null=torch.zeros(1, 1, 64))

    def run(model, hooks=None, sigmas=(1.0, 0.8, 0.6, 0.4, 0.0), start=None):
        pair = comfy.hooks.set_conds_props(list(batch_of(batch)), strength=1.0, set_cond_area="default", hooks=hooks)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*pair)
        guider.set_cfg(1.0)
        sampler, none = comfy.samplers.sampler_object("euler"), torch.zeros_like(noise)
        pair = (noise, none) if start is None else (none, start)  # a part of a run ends and begins without its noise
        with torch.inference_mode():
            return guider.sample(*pair, sampler, torch.tensor(sigmas), disable_pbar=True, seed=0).clone()

    return run


def keyframes(*pairs):
    import comfy.hooks

    group = comfy.hooks.HookKeyframeGroup()
    for start, strength in pairs:
        group.add(comfy.hooks.HookKeyframe(strength, start, guarantee_steps=0))
    return group


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_hook_is_the_patch_and_leaves_the_weights_as_they_were(adapters, loaded, deltas, song, relative_error, kind):
    given, _ = deltas(kind)
    bare, before = song(loaded.model), weights(loaded.model, given)
    patched = song(adapters.apply(loaded.model, given, 0.6))
    hooked = song(loaded.model, adapters.hook(lambda shapes: given, 0.6))
    assert relative_error(patched, bare) > 1e-3 and relative_error(hooked, patched) < 1e-6
    assert torch.equal(song(loaded.model), bare)
    after = weights(loaded.model, given)
    assert all(torch.equal(after[name], before[name]) for name in given)
    assert torch.equal(song(loaded.model, adapters.hook(lambda shapes: given, 0.0)), bare)


def test_hooks_follow_their_schedule(adapters, loaded, deltas, song, relative_error):
    """At full strength for the first half of the steps, then at half of it and the other way round."""
    given, _ = deltas("lora")
    hooks = adapters.hook(lambda shapes: given, 0.8)
    hooks.set_keyframes_on_hooks(keyframes((0.0, 1.0), (_percent(loaded.model, 0.6), -0.5)))
    hooked = song(loaded.model, hooks)
    half = song(adapters.apply(loaded.model, given, 0.8), sigmas=(1.0, 0.8, 0.6))
    parts = song(adapters.apply(loaded.model, given, -0.4), sigmas=(0.6, 0.4, 0.0), start=half)
    assert relative_error(hooked, parts) < 1e-5
    assert relative_error(hooked, song(adapters.apply(loaded.model, given, 0.8))) > 1e-3


def _percent(model, sigma):
    """The part of a run at which the host's schedule has passed `sigma`, just before it."""
    sampling = model.get_model_object("model_sampling")
    return next(k / 1000 for k in range(1001) if sampling.percent_to_sigma(k / 1000) <= sigma + 1e-3)


def test_hooks_add_to_those_before_and_to_patches(adapters, loaded, deltas, song, relative_error):
    (one, _), (two, _) = deltas("lora"), deltas("lora")
    first = adapters.hook(lambda shapes: one, 0.5)
    both = adapters.hook(lambda shapes: two, 0.25, first)
    assert len(first) == 1 and len(both) == 2
    expected = song(adapters.apply(adapters.apply(loaded.model, one, 0.5), two, 0.25))
    assert relative_error(song(loaded.model, both), expected) < 1e-6
    mixed = song(adapters.apply(loaded.model, one, 0.5), adapters.hook(lambda shapes: two, 0.25))
    assert relative_error(mixed, expected) < 1e-6
