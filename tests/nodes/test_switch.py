"""Covers through the host: the switch of conditions at its step, starts out of a source, equal to the core alone."""

from __future__ import annotations

import pytest
import torch

SEED, FRAMES = 5, 53
TURBO, BASE = {"steps": 4, "shift": 3.0}, {"steps": 5, "shift": 2.0, "scale": 7.0, "ema": 0.1}
CASES = {
    "turbo": ("turbo", TURBO, {"strength": 0.5}),
    "turbo, heun": ("turbo", {**TURBO, "solver": "heun"}, {"strength": 0.5}),
    "turbo, sde": ("turbo", {**TURBO, "solver": "sde"}, {"strength": 0.3}),
    "base": ("base", BASE, {"strength": 0.5}),
    "base, heun": ("base", {**BASE, "solver": "heun"}, {"strength": 0.7}),
    "base, sde": ("base", {**BASE, "solver": "sde"}, {"strength": 0.7}),
    "base, interval": ("base", {**BASE, "interval": (0.3, 0.8)}, {"strength": 0.5}),
    "start": ("base", BASE, {"start_noise": 0.4}),
    "start and strength": ("base", BASE, {"start_noise": 0.2, "strength": 0.5}),
    "nothing of it": ("base", BASE, {"strength": 0.0}),
    "all of it": ("turbo", TURBO, {"start_noise": 1.0}),
}


@pytest.fixture
def cover(pack, core, loaded, rng):
    """cover(variant, options, plain=False, **settings) -> latents of two songs, through the host or without it."""
    blueprint = core("blueprint").Blueprint
    songs = (blueprint(caption="calm piano"), blueprint(caption="calm piano", lyrics="[Verse]\nla la la"))
    source = core("pipelines.listen").Source(torch.randn(1, 64, FRAMES, generator=rng(1)), torch.zeros(1, 2, 1920))

    def run(variant, options, plain=False, model=None, **settings):
        generate, covers = core("pipelines.generate"), core("pipelines.cover")
        network = loaded.model.model
        network.variant_name = variant
        decoder = pack("host.decoder").HostDecoder(model or loaded.model, SEED)
        if plain:
            handle = core("runtime").Handle(network.diffusion_model.decoder, torch.float32, loaded.model)
            decoder = generate.PlainDecoder(handle, network.variant, network.variant.shift)
        take = generate.Take(songs, core("sampling.schedule").SamplingOptions(**options), SEED)
        runtime, values = pack("host.runtime").HostRuntime(), covers.CoverSettings(**settings)
        with torch.inference_mode():
            return covers.cover(runtime, decoder, loaded.conditioner, take, source, values).latents

    return run


@pytest.mark.parametrize(("variant", "options", "settings"), CASES.values(), ids=CASES)
def test_host_equals_the_core_alone(cover, relative_error, variant, options, settings):
    ours = cover(variant, options, **settings)
    assert ours.shape == (2, 64, FRAMES)
    assert relative_error(ours, cover(variant, options, plain=True, **settings)) < 1e-5
    assert relative_error(ours, cover(variant, options)) > 1e-3


@pytest.fixture
def calls(loaded, monkeypatch):
    """(rows, tokens, t) of every call of the decoder."""
    seen = []
    hook = loaded.model.model.diffusion_model.register_forward_pre_hook(
        lambda _, given, named: seen.append((len(given[0]), named["context"].shape[1], round(float(given[1][0]), 3))),
        with_kwargs=True,
    )
    yield seen
    hook.remove()


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_every_look_of_a_step_reads_its_set_and_guidance_stays_one_call(cover, calls, solver):
    """The two sentences differ in length, which tells the sets apart."""
    cover("base", {**BASE, "steps": 4, "shift": 1.0, "solver": solver}, strength=0.5)
    looks = [(k, t) for k, t in enumerate((1.0, 0.75, 0.5, 0.25))]
    if solver == "heun":
        looks = [look for k, t in looks for look in ((k, t), (k, t - 0.25)) if look[1] > 0]
    first, second = calls[0][1], calls[-1][1]
    assert first != second
    assert calls == [(4, first if k < 2 else second, t) for k, t in looks]


def test_strength_one_hands_the_host_one_set(pack, cover, monkeypatch):
    later = []
    monkeypatch.setattr(pack("host.guider").SongGuider, "set_later", lambda self, sets: later.append(sets))
    cover("turbo", TURBO)
    cover("turbo", TURBO, strength=0.0)
    assert later == [{}, {}]


def test_memory_is_asked_for_the_longer_of_both_sets(core, cover, loaded, calls, monkeypatch):
    asked, model = [], loaded.model.model
    monkeypatch.setattr(
        type(model), "memory_required", lambda self, shape, cond_shapes=None: asked.append(cond_shapes) or 0.0
    )
    cover("base", BASE, strength=0.5)
    lengths = {tokens for _, tokens, _ in calls}
    assert len(lengths) == 2
    assert {shape[1] for shape in asked[0]["c_crossattn"]} == lengths


def test_the_key_of_the_step_reaches_no_patch(cover, loaded):
    """A model function of a patch sees what the host gives everybody."""
    seen = []
    patched = loaded.model.clone()

    def wrapper(apply_model, given):
        seen.append(sorted(given["c"]["transformer_options"]))
        return apply_model(given["input"], given["timestep"], **given["c"])

    patched.set_model_unet_function_wrapper(wrapper)
    cover("base", BASE, model=patched, strength=0.5)
    assert len(seen) == 5 and not any("acestep" in key for keys in seen for key in keys)
