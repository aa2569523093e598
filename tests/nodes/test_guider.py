"""Guidance through the host: equal to the core's own, one call for both halves, nothing asked that is not used."""

from __future__ import annotations

import pytest
import torch

SEED = 5
CASES = {
    "apg": {"scale": 7.0},
    "cfg": {"guidance": "cfg", "scale": 3.0},
    "adg": {"guidance": "adg", "scale": 4.0},
    "adg_w_norm": {"guidance": "adg_w_norm", "scale": 4.0},
    "adg_wo_clip": {"guidance": "adg_wo_clip", "scale": 2.0},
    "none": {"guidance": "none"},
    "interval": {"scale": 7.0, "interval": (0.3, 0.7)},
    "clamp and ema": {"scale": 7.0, "clamp": 1.5, "ema": 0.2},
    "heun": {"scale": 7.0, "solver": "heun", "ema": 0.1},
    "sde": {"scale": 7.0, "solver": "sde"},
}


@pytest.fixture
def base(pack, model_folders, tiny_2b_split):
    """The tiny model taken for a base one."""
    root = tiny_2b_split.model.parents[1]
    model_folders(**{name: root / name for name in ("diffusion_models", "text_encoders", "vae")})
    sources = pack("host.sources").find_sources(tiny_2b_split.model.name, "auto", "auto")
    return pack("host.loader").load(sources, "base", "fp32")


@pytest.fixture
def options(core):
    """options(...) are SamplingOptions of four steps."""
    return lambda **changes: core("sampling.schedule").SamplingOptions(**{"steps": 4, "shift": 3.0, **changes})


@pytest.fixture
def songs(core):
    """Two songs with texts of different length: the shorter one is padded and masked."""
    blueprint = core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    return (blueprint, core("blueprint").Blueprint(caption="calm piano", seconds=10.0, lyrics="[Verse]\nla la la"))


@pytest.fixture
def host_song(pack, core, base):
    """host_song(songs, options, seed) through the host's machinery."""

    def run(songs, options, seed=SEED, model=None):
        decoder = pack("host.decoder").HostDecoder(model or base.model, seed)
        return generated(core, pack, decoder, base, songs, options, seed)

    return run


def generated(core, pack, decoder, models, songs, options, seed=SEED):
    runtime = pack("host.runtime").HostRuntime()
    with torch.inference_mode():
        return core("pipelines.generate").generate(runtime, decoder, models.conditioner, songs, options, seed).latents


def plain_song(core, pack, models, songs, options):
    """The same without the host."""
    model = models.model.model
    handle = core("runtime").Handle(model.diffusion_model.decoder, torch.float32, models.model)
    return generated(
        core, pack, core("pipelines.generate").PlainDecoder(handle, model.variant, model.variant.shift), models, songs,
        options,
    )  # fmt: skip


def row_counts(model, monkeypatch):
    """A list that gets the number of rows of every call of the decoder."""
    rows = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    monkeypatch.setattr(model, "rows_hook", hook, raising=False)
    return rows


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_host_equals_the_core_alone(pack, core, base, songs, options, host_song, relative_error, changes):
    ours = host_song(songs, options(**changes))
    alone = plain_song(core, pack, base, songs, options(**changes))
    assert ours.shape == (2, 64, 250)
    assert relative_error(ours, alone) < 1e-5


@pytest.mark.parametrize("changes", [CASES["heun"], CASES["sde"]], ids=["heun", "sde"])
def test_a_song_of_a_batch_is_the_song_made_alone(core, host_song, options, relative_error, changes):
    song = core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    batch = host_song((song, song), options(**changes))
    alone = host_song((song,), options(**changes), SEED + 1)
    assert relative_error(batch[1:], alone) < 1e-5
    assert relative_error(batch[:1], alone) > 0.1


def test_song_and_null_are_one_call_where_guidance_acts(base, songs, options, host_song, monkeypatch):
    """Shift 1: the four steps begin at 1, 0.75, 0.5 and 0.25."""
    rows = row_counts(base.model, monkeypatch)
    host_song(songs, options(shift=1.0, scale=7.0, interval=(0.5, 0.75)))
    assert rows == [2, 4, 4, 2]


def test_interval_ends_are_found_although_the_host_rounds_times(base, songs, options, host_song, monkeypatch):
    rows = row_counts(base.model, monkeypatch)
    host_song(songs, options(times=(0.9, 0.7, 0.3), steps=None, shift=None, scale=7.0, interval=(0.3, 0.7)))
    assert rows == [2, 4, 4]


@pytest.mark.parametrize(("variant", "scale"), [("turbo", None), ("base", 1.0)])
def test_no_guidance_asks_no_null(pack, core, base, songs, options, monkeypatch, variant, scale):
    base.model.model.variant_name = variant
    rows = row_counts(base.model, monkeypatch)
    decoder = pack("host.decoder").HostDecoder(base.model, SEED)
    generated(core, pack, decoder, base, songs, options(scale=scale))
    assert rows == [2, 2, 2, 2]


def test_every_run_begins_with_a_new_guide(pack, core, base, songs, options):
    """A guider that SamplerCustomAdvanced keeps in its cache is used again."""
    import comfy.samplers

    schedule = core("sampling.schedule").resolve(options(scale=7.0, ema=0.2), base.model.model.variant, 3.0)
    batch = core("pipelines.encode").encode_songs(pack("host.runtime").HostRuntime(), base.conditioner, songs, 250)
    guider = pack("host.guider").SongGuider(base.model, *pack("host.decoder").conditioning(batch), schedule)
    noise = torch.randn(2, 64, 250, generator=torch.Generator().manual_seed(1))
    arguments = (torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), torch.tensor(schedule.times))
    with torch.inference_mode():
        first, second = (guider.sample(noise, *arguments, disable_pbar=True, seed=1) for _ in range(2))
    assert torch.equal(first, second)


def test_nodes_that_patch_cfg_act(base, songs, options, host_song, relative_error):
    """As nodes do it: on a clone, through the host's own functions."""
    plain = host_song(songs, options(scale=7.0))
    halved = base.model.clone()
    halved.set_model_sampler_post_cfg_function(lambda given: given["denoised"] * 0.5)
    assert relative_error(host_song(songs, options(scale=7.0), model=halved), plain) > 0.1
    own = base.model.clone()
    own.set_model_sampler_cfg_function(lambda g: g["uncond"] + 3.0 * (g["cond"] - g["uncond"]))
    cfg = host_song(songs, options(guidance="cfg", scale=3.0))
    assert relative_error(host_song(songs, options(scale=7.0), model=own), cfg) < 1e-5


def test_guider_refuses_other_models(pack, core):
    from types import SimpleNamespace

    other = SimpleNamespace(model=torch.nn.Linear(1, 1), model_options={})
    with pytest.raises(ValueError, match="expected an ACE-Step 1.5 decoder, got Linear"):
        pack("host.guider").SongGuider(other, [], [], None)
