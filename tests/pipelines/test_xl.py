"""XL end to end against diffusers, which forgets the special token of XL's timbre encoder and gets it here.

spec/audio.md §2.4: upstream's XL puts `special_token` before the frames of a reference and reads position 0; diffusers
0.39 reads the first frame, as 2B does.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.generate import generate
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import song_noise
from acestep_models.sampling.schedule import SamplingOptions
from acestep_models.units import seconds_to_frames

SONG = Blueprint(
    caption="warm piano", lyrics="[Verse]\n" + "one two\n" * 12, language="en", bpm=90, key="Am", seconds=10.2
)


class WithToken(nn.Module):
    """An input projection that puts the learned token before what it projects."""

    def __init__(self, projection, token):
        super().__init__()
        self.projection, self.token = projection, token

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), self.projection(x)], dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_tiny):
    return write_tiny(tmp_path_factory.mktemp("xl_diffusers"), layout="diffusers", family="xl")


@pytest.fixture
def oracle(folder):
    """diffusers' pipeline on the tiny XL, as it comes."""
    from diffusers import AceStepPipeline

    pipeline = AceStepPipeline.from_pretrained(folder.model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_token(pipeline):
    """The same pipeline with upstream's timbre encoder of XL."""
    timbre = pipeline.condition_encoder.timbre_encoder
    timbre.embed_tokens = WithToken(timbre.embed_tokens, timbre.special_token)
    return pipeline


def song_of(pipeline, shift):
    """Latents [1, T, 64] after eight steps of diffusers."""
    return pipeline(
        prompt=SONG.caption,
        lyrics=SONG.lyrics,
        vocal_language="en",
        audio_duration=SONG.seconds,
        bpm=90,
        keyscale="A minor",
        shift=shift,
        latents=song_noise(11, seconds_to_frames(SONG.seconds)).transpose(1, 2),
        output_type="latent",
        return_dict=False,
    )[0]


def ours(models, shift):
    options = SamplingOptions(shift=shift)
    return generate(PlainRuntime(), models.decoder, models.conditioner, [SONG], options, 11).latents.transpose(1, 2)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_trajectories_equal_diffusers_with_the_token(folder, oracle, load_song_models, relative_error, shift):
    mine = ours(load_song_models(folder), shift)
    assert relative_error(mine, song_of(with_token(oracle), shift)) < 1e-4


def test_the_token_is_what_diffusers_lacks(folder, oracle, load_song_models, relative_error):
    assert relative_error(ours(load_song_models(folder), 3.0), song_of(oracle, 3.0)) > 1e-3


def test_timbre_tokens_equal_diffusers_with_the_token(folder, oracle, load_song_models, rng, relative_error):
    encoder = load_song_models(folder).conditioner.condition.module.timbre_encoder
    references = torch.randn(3, 750, 64, generator=rng(2))
    with torch.inference_mode():
        packed, _ = with_token(oracle).condition_encoder.timbre_encoder(references, torch.zeros(3, dtype=torch.long))
        assert relative_error(encoder(references), packed[0]) < 1e-5
