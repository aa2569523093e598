"""Songs of which a part stays: the rest of the loop by hand, what stays bit by bit, and what does not fit."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.encode import encode_songs
from acestep_models.pipelines.generate import Take, perform
from acestep_models.pipelines.held import generate_held, held_frames
from acestep_models.pipelines.task import Work
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.hold import Held
from acestep_models.sampling.noise import song_noise
from acestep_models.sampling.schedule import SamplingOptions, flow_times

sys.path.append(str(Path(__file__).parent))
from byhand import ByHand, reference  # noqa: E402

SONG = Blueprint(caption="warm piano", lyrics="[Verse]\none two", language="en", bpm=90, key="Am")
FRAMES = 53


def held(count=1, frames=FRAMES, mask=None):
    """Random latents, of which frames 20 to 35 are made anew, and three on each side in part."""
    if mask is None:
        mask = torch.zeros(1, 1, frames)
        mask[..., 20:35] = 1.0
        mask[..., 17:20] = mask[..., 35:38] = torch.tensor([0.25, 0.5, 0.75])
    generator = torch.Generator().manual_seed(3)
    return Held(torch.randn(count, 64, frames, generator=generator), mask)


def made(models, part, songs=(SONG,), seed=11, timbre=None, **options):
    """Latents with a part held."""
    take = Take(tuple(songs), SamplingOptions(**options), seed, reference=timbre)
    return generate_held(PlainRuntime(), models.decoder, models.conditioner, take, part)


@pytest.mark.parametrize("times", [None, (0.9, 0.5, 0.3)])
def test_the_loop_by_hand(tiny_models, relative_error, times):
    part = held()
    found = made(tiny_models, part, times=times, timbre=reference()).latents
    batch = encode_songs(PlainRuntime(), tiny_models.conditioner, [SONG], FRAMES, reference())
    noise, clean, m = song_noise(11, FRAMES), part.latents, part.mask
    walked = flow_times(8, 3.0) if times is None else (*times, 0.0)
    hand = ByHand(tiny_models, [batch] * len(walked))
    x = walked[0] * noise + (1 - walked[0]) * clean
    with torch.inference_mode():
        for index, (t, after) in enumerate(pairwise(walked)):
            seen = x * m + (t * noise + (1 - t) * clean) * (1 - m)
            music = (seen - t * hand.velocity(seen, t, index)) * m + clean * (1 - m)
            x = x + (after - t) * (x - music) / t
    assert relative_error(found, x) < 1e-5
    assert torch.equal(found[..., :17], clean[..., :17]) and torch.equal(found[..., 38:], clean[..., 38:])
    assert relative_error(found[..., 20:35], clean[..., 20:35]) > 0.1


@pytest.mark.parametrize("options", [{"solver": "heun"}, {"solver": "sde"}, {"steps": 3}], ids=str)
def test_what_stays_stays_with_every_solver(tiny_models, options):
    part = held(2)
    latents = made(tiny_models, part, (SONG, SONG.edit(caption="tone " * 9)), **options).latents
    outside = part.mask[0, 0] == 0
    assert torch.equal(latents[..., outside], part.latents[..., outside])
    assert latents.isfinite().all()


def test_an_open_mask_is_a_new_song(tiny_models, relative_error):
    part = held(mask=torch.ones(1, 1, FRAMES), frames=FRAMES)
    song = SONG.edit(seconds=10.2)
    part = Held(torch.randn(1, 64, 255), torch.ones(1, 1, 255))
    take = Take((song,), SamplingOptions(), 11)
    new = perform(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, take, Work("text2music"))
    assert relative_error(made(tiny_models, part, (song,)).latents, new.latents) < 1e-5


def test_takes_of_one_part_are_those_made_alone(tiny_models, relative_error):
    part = held()
    together = made(tiny_models, part, (SONG, SONG)).latents
    for k in range(2):
        assert relative_error(together[k : k + 1], made(tiny_models, part, seed=11 + k).latents) < 1e-5


@pytest.mark.parametrize(
    ("songs", "frames", "told"),
    [((SONG,), 53, 53), ((SONG.edit(seconds=10.2),), 255, 255), ((SONG, SONG.edit(seconds=10.2)), 255, 255)],
)
def test_a_song_without_a_length_takes_that_of_the_latent(songs, frames, told):
    assert held_frames(songs, held(frames=frames)) == told


@pytest.mark.parametrize(
    ("songs", "count", "message"),
    [
        ((SONG.edit(seconds=10.2),), 1, r"it has 53 frames \(2.12 s\), the blueprint's song 255 \(10.2 s\); set sec"),
        ((SONG,), 2, "it holds 2 songs, the blueprint 1; set songs of Blueprint to 2"),
        ((SONG,) * 3, 2, "it holds 2 songs, the blueprint 3"),
    ],
)
def test_another_length_or_number_is_refused(songs, count, message):
    with pytest.raises(ValueError, match=f"latent: {message}"):
        held_frames(songs, held(count))
