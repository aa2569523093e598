"""A splice through the VAE: what is new is decoded, what is kept is the source, and a foreign splice is refused."""

from __future__ import annotations

import pytest
import torch

from acestep_models.audio.splice import Splice
from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.decode import check_song, decode
from acestep_models.pipelines.generate import SongMeta
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.schedule import SamplingOptions, resolve
from acestep_models.tasks import VARIANTS

FRAMES = 12
NEW = (5_000, 9_000)


def a_splice(rng, samples, song="one"):
    return Splice(torch.randn(1, 2, samples, generator=rng(1)), (NEW,), 100, FRAMES, song)


@pytest.mark.parametrize("samples", [FRAMES * 1920, FRAMES * 1920 - 77, FRAMES * 1920 + 1919])
def test_spans_are_decoded_and_the_rest_is_the_source(tiny_models, rng, samples):
    latents = torch.randn(2, 64, FRAMES, generator=rng(2))
    splice = a_splice(rng, samples)
    plain = decode(PlainRuntime(), tiny_models.vae, latents)
    made = decode(PlainRuntime(), tiny_models.vae, latents, splice)
    assert plain.shape == (2, 2, FRAMES * 1920) and made.shape == (2, 2, samples)
    assert torch.equal(made[..., slice(*NEW)], plain[..., slice(*NEW)])
    for kept in (slice(0, NEW[0] - 100), slice(NEW[1] + 100, None)):
        assert torch.equal(made[..., kept], splice.waveform[..., kept].expand(2, -1, -1))
    assert splice.kept == ((0.0, 4_900 / 48_000), (9_100 / 48_000, samples / 48_000))


def test_latents_of_another_length_are_refused_before_anything_is_decoded(rng):
    with pytest.raises(ValueError, match="splice: belongs to a song of 12 latent frames, the latent has 13"):
        decode(PlainRuntime(), None, torch.zeros(1, 64, 13), a_splice(rng, FRAMES * 1920))


def test_the_splice_of_another_song_is_refused(rng):
    splice = a_splice(rng, FRAMES * 1920)
    schedule = resolve(SamplingOptions(), VARIANTS["turbo"], 3.0)
    facts = ((Blueprint(),), (0,), FRAMES, schedule)
    check_song(splice, SongMeta(*facts, task="repaint", song="one"))
    check_song(splice, None)
    check_song(splice, {"of": "another pack"})
    with pytest.raises(ValueError, match=r"splice: belongs to another song \(the latent is of repaint\)"):
        check_song(splice, SongMeta(*facts, task="repaint", song="two"))
    with pytest.raises(ValueError, match=r"splice: belongs to another song \(the latent is of text2music\)"):
        check_song(splice, SongMeta(*facts))
