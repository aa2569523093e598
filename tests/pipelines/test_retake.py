"""Takes between two seeds, and latents moved before they are decoded."""

import math

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.errors import ACEStepError
from acestep_models.pipelines.adjust import adjust
from acestep_models.pipelines.generate import Take, generate
from acestep_models.pipelines.retake import retake
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import Retake, song_noise
from acestep_models.sampling.schedule import SamplingOptions

SONGS = (Blueprint(caption="warm piano", seconds=10.0), Blueprint(caption="a choir", lyrics="la la", seconds=10.0))


def made(models, seed, options, other=None):
    """Two songs, as they are or turned."""
    parts = PlainRuntime(), models.decoder, models.conditioner
    if other is None:
        return generate(*parts, SONGS, options, seed).latents
    return retake(*parts, Take(SONGS, options, seed), other).latents


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
def test_the_ends_are_the_songs_of_both_seeds(tiny_models, solver):
    options = SamplingOptions(solver=solver)
    assert torch.equal(made(tiny_models, 11, options, Retake(70, 0.0)), made(tiny_models, 11, options))
    assert torch.equal(made(tiny_models, 11, options, Retake(70, 1.0)), made(tiny_models, 70, options))


@pytest.mark.parametrize("variance", [0.2, 0.5])
def test_between_them_the_noise_is_the_formula(tiny_models, variance):
    one, other = (torch.cat([song_noise(seed + k, 250) for k in (0, 1)]) for seed in (11, 70))
    angle = variance * math.pi / 2
    starts = []

    class Decoder:
        variant, shift = tiny_models.decoder.variant, tiny_models.decoder.shift

        def run(self, runtime, conditions, start, schedule, solve):
            starts.append(start)
            return tiny_models.decoder.run(runtime, conditions, start, schedule, solve)

    take = Take(SONGS, SamplingOptions(), 11)
    song = retake(PlainRuntime(), Decoder(), tiny_models.conditioner, take, Retake(70, variance))
    torch.testing.assert_close(starts[0], math.cos(angle) * one + math.sin(angle) * other, rtol=0, atol=1e-6)
    assert float(starts[0].std()) == pytest.approx(1.0, abs=0.02)
    assert song.meta.seeds == (11, 12) and song.meta.retake == Retake(70, variance)


def test_a_song_with_a_seed_of_its_own_turns_too(tiny_models):
    """The other seed is counted from the retake's, or the song would turn towards itself."""
    own = (SONGS[0].edit(seed=500),)
    parts = PlainRuntime(), tiny_models.decoder, tiny_models.conditioner
    turned = retake(*parts, Take(own, SamplingOptions(), 11), Retake(70, 1.0)).latents
    assert torch.equal(turned, generate(*parts, SONGS[:1], SamplingOptions(), 70).latents)


def test_adjusted_latents_are_the_formula(rng):
    latents = torch.randn(2, 64, 9, generator=rng(0))
    assert torch.equal(adjust(latents), latents)
    assert torch.equal(adjust(latents, 0.25, 1.5), latents * 1.5 + 0.25)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shift": 11.0}, "shift: expected -10 to 10, got 11"),
        ({"shift": float("nan")}, "shift: expected"),
        ({"rescale": 0.0}, "rescale: expected above 0"),
        ({"rescale": float("nan")}, "rescale: expected"),
    ],
)
def test_adjustments_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        adjust(torch.zeros(1, 64, 2), **values)


def test_latents_that_are_not_finite_are_not_adjusted():
    with pytest.raises(ACEStepError, match="not finite"):
        adjust(torch.full((1, 64, 2), float("inf")))
