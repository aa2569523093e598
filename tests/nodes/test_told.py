"""Keys and values of the condition: computed once a song and set on both sampling paths, never stale."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def counted(loaded):
    """The calls of the key projections of attention to the condition, each with its rows."""
    rows, layer = [], loaded.model.model.diffusion_model.decoder.layers[-1]
    hook = layer.cross_attn.k_proj.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    yield rows
    hook.remove()


@pytest.fixture
def song(pack, core, loaded):
    """song(variant, plain, strength, **options) -> latents of one song, or of a cover with this strength."""

    def run(variant="turbo", plain=False, strength=None, **options):
        generate, covers = core("pipelines.generate"), core("pipelines.cover")
        network = loaded.model.model
        network.variant_name = variant
        decoder = pack("host.decoder").HostDecoder(loaded.model, 5)
        if plain:
            handle = core("runtime").Handle(network.diffusion_model.decoder, torch.float32, loaded.model)
            decoder = generate.PlainDecoder(handle, network.variant, network.variant.shift)
        songs = (core("blueprint").Blueprint(caption="calm piano", seconds=10.0),)
        take = generate.Take(songs, core("sampling.schedule").SamplingOptions(**{"steps": 4, **options}), 5)
        runtime = pack("host.runtime").HostRuntime()
        with torch.inference_mode():
            if strength is None:
                work = generate.Work("text2music")
                return generate.perform(runtime, decoder, loaded.conditioner, take, work).latents
            source = core("pipelines.listen").Source(torch.randn(1, 64, 53), torch.zeros(1, 2, 1920))
            settings = covers.CoverSettings(strength=strength)
            return covers.cover(runtime, decoder, loaded.conditioner, take, source, settings).latents

    return run


CASES = {
    "turbo": ({}, [1]),
    "turbo, many steps": ({"steps": 12}, [1]),
    "guided": ({"variant": "base", "scale": 7.0}, [2]),
    "guided, heun": ({"variant": "base", "scale": 7.0, "solver": "heun"}, [2]),
    "cover": ({"strength": 0.5}, [1, 1]),
    "guided cover": ({"variant": "base", "scale": 7.0, "strength": 0.5}, [2, 2]),
}


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["host", "plain"])
@pytest.mark.parametrize(("options", "rows"), CASES.values(), ids=CASES)
def test_once_a_song_and_set(song, counted, options, rows, plain):
    song(plain=plain, **options)
    assert counted == rows


@pytest.mark.slow
def test_guidance_within_an_interval_begins_anew_at_most_once(song, counted):
    song(variant="base", scale=7.0, shift=1.0, interval=(0.5, 0.75))
    assert counted == [1, 2]
    counted.clear()
    song(variant="base", plain=True, scale=7.0, shift=1.0, interval=(0.5, 0.75))
    assert counted == [2]


def ksample(loaded, pair, cfg, model=None):
    """Latents by the host's own sampler."""
    import comfy.sample

    noise = torch.randn(1, 64, 250, generator=torch.Generator().manual_seed(1))
    positive, negative = pair
    return comfy.sample.sample(
        model or loaded.model, noise, 4, cfg, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=1
    )


@pytest.fixture
def pair(pack, core, loaded):
    """Conditioning of a song for the host's samplers."""
    encode, blueprint = core("pipelines.encode"), core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    batch = encode.encode_songs(pack("host.runtime").HostRuntime(), loaded.conditioner, (blueprint,), 250)
    return pack("host.decoder").conditioning(batch)


@pytest.mark.parametrize(("cfg", "rows"), [pytest.param(1.0, [1], marks=pytest.mark.slow), (4.0, [2])])
def test_the_hosts_sampler_computes_them_once_and_the_same(pack, loaded, pair, counted, monkeypatch, cfg, rows):
    once = ksample(loaded, pair, cfg)
    assert counted == rows
    monkeypatch.setattr(
        pack("host.models"), "StoreCond", lambda store: pack("host.models").comfy.conds.CONDConstant(None)
    )
    assert torch.equal(ksample(loaded, pair, cfg), once)
    assert counted == rows * 5


@pytest.mark.slow
def test_song_and_null_one_by_one_are_each_computed_once(loaded, pair, counted, monkeypatch):
    """What the host does when memory is short."""
    together = ksample(loaded, pair, 4.0)
    counted.clear()
    monkeypatch.setattr(type(loaded.model.model), "memory_required", lambda *_, **__: 1e30)
    assert torch.allclose(ksample(loaded, pair, 4.0), together, atol=1e-5)
    assert counted == [1, 1]


@pytest.mark.slow
def test_hooks_that_change_weights_in_a_run_are_not_missed(loaded, pair, counted):
    """A LoRA that comes in halfway: every step computes its own."""
    import comfy.hooks

    model, (positive, negative) = loaded.model.clone(), pair
    key = next(key for key in model.model.state_dict() if key.endswith("layers.0.cross_attn.k_proj.weight"))
    group = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(strength_model=1.0)
    hook.weights = {key: ("diff", (torch.ones_like(model.model.state_dict()[key]),))}
    hook.need_weight_init = False
    group.add(hook)
    hooked = [[tokens, {**facts, "hooks": group}] for tokens, facts in positive]
    ksample(loaded, (hooked, negative), 1.0, model)
    assert len(counted) == 4


def test_nothing_is_held_after_a_run(pack, song, monkeypatch):
    """Neither after one that ended, nor after one that failed."""
    import gc
    import weakref

    models, stores = pack("host.models"), []

    class Watched(models.ToldStore):
        def __init__(self):
            super().__init__()
            stores.append(weakref.ref(self))

    monkeypatch.setattr(models, "ToldStore", Watched)
    song()
    monkeypatch.setattr(Watched, "find", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        song()
    gc.collect()
    assert len(stores) > 1 and all(store() is None for store in stores)
