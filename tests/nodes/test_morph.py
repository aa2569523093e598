"""Morph through the host's machinery: the core's own numbers, and values that are refused early."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def turn(pack, core, loaded):
    """turn(decoder, variant, **settings): one source of 2.12 s, turned."""

    def run(make, variant, **settings):
        paper, flow = core("blueprint").Blueprint, core("pipelines.morph")
        loaded.model.model.variant_name = variant
        generator = torch.Generator().manual_seed(1)
        sound = core("pipelines.listen").Source(
            torch.randn(1, 64, 53, generator=generator), torch.randn(1, 2, 53 * 1920, generator=generator)
        )
        new, old = paper(caption="loud brass"), paper(caption="warm piano", lyrics="[Verse]\nla la la")
        options = core("sampling.schedule").SamplingOptions(steps=4, shift=2.0)
        take = core("pipelines.generate").Take((new, new), options, 3)
        runtime, decoder = pack("host.runtime").HostRuntime(), make(loaded.model)
        with torch.inference_mode():
            song = flow.morph(runtime, decoder, loaded.conditioner, take, sound, (old,), flow.MorphSettings(**settings))
        return song.latents

    return run


@pytest.mark.parametrize("variant", ["turbo", "base"])
@pytest.mark.parametrize("settings", [{}, {"window_start": 0.25, "window_end": 0.75, "averaging": 2}], ids=str)
def test_the_host_makes_what_the_core_makes(pack, core, turn, relative_error, variant, settings):
    """Guided by APG on base; the source leaves the batch after the window."""
    generate = core("pipelines.generate")

    def plain(model):
        handle = core("runtime").Handle(model.model.diffusion_model.decoder, torch.float32, model)
        return generate.PlainDecoder(handle, model.model.variant, 2.0)

    ours = turn(lambda model: pack("host.decoder").HostDecoder(model, 3), variant, **settings)
    assert ours.shape == (2, 64, 53)
    assert relative_error(ours, turn(plain, variant, **settings)) < 1e-5


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, None),
        ({"structure": "codes", "window_start": 0.2, "window_end": None, "averaging": 2}, None),
        (
            {"window_start": 0.6, "window_end": 0.4},
            "window_start, window_end: expected 0 <= start < end <= 1, got 0.6 and 0.4",
        ),
        ({"structure": "tune"}, "structure: expected one of text, codes, faithful; got 'tune'"),
        ({"averaging": 9}, "averaging: expected 1 to 8, got 9"),
    ],
)
def test_values_are_checked_before_anything_runs(pack, values, complaint):
    assert pack("morph").Morph.validate_inputs(**values) == (complaint or True)
