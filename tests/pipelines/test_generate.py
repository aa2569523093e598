"""Text to music end to end on tiny models: against diffusers, alone against in a batch, and its endings."""

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.blueprint_json import codes_text
from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.pipelines.decode import decode
from acestep_models.pipelines.generate import generate
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import song_noise
from acestep_models.sampling.schedule import SamplingOptions
from acestep_models.units import frames_to_samples, seconds_to_frames

AUTO = SamplingOptions()


def songs(count, seconds):
    """Songs whose captions and lyrics differ in length."""
    return [
        Blueprint(caption="tone " * (k + 1), lyrics="la\n" * (5 * k + 1), bpm=60 + k, seconds=seconds)
        for k in range(count)
    ]


@pytest.mark.parametrize("seconds", [10.0, 10.2, 11.4])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_trajectories_equal_diffusers(tiny_models, diffusers_pipeline, relative_error, seconds, shift):
    """Eight steps from the same noise through AceStepPipeline on the same weights."""
    words = {"caption": "warm piano", "lyrics": "[Verse]\n" + "one two\n" * 12, "language": "en"}
    song = Blueprint(**words, bpm=90, key="Am", seconds=seconds)
    options = SamplingOptions(shift=shift)
    ours = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [song], options, 11)
    theirs = diffusers_pipeline(
        prompt=song.caption,
        lyrics=song.lyrics,
        vocal_language="en",
        audio_duration=seconds,
        bpm=90,
        keyscale="A minor",
        shift=shift,
        latents=song_noise(11, seconds_to_frames(seconds)).transpose(1, 2),
        output_type="latent",
        return_dict=False,
    )[0]
    assert relative_error(ours.latents.transpose(1, 2), theirs) < 1e-4


@pytest.mark.parametrize("seconds", [None, 10.2])
def test_a_song_with_codes_equals_diffusers(tiny_models, diffusers_pipeline, relative_error, seconds):
    """Eight steps along the same codes; without seconds the codes say the length."""
    codes = [(7919 * k) % 64_000 for k in range(51)]
    song = Blueprint(
        caption="warm piano", lyrics="[Verse]\none two", language="en", bpm=90, codes=codes, seconds=seconds
    )
    ours = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [song], AUTO, 11)
    theirs = diffusers_pipeline(
        prompt=song.caption,
        lyrics=song.lyrics,
        vocal_language="en",
        audio_duration=10.2,
        audio_codes=codes_text(codes, "tokens"),
        bpm=90,
        shift=3.0,
        latents=song_noise(11, 255).transpose(1, 2),
        output_type="latent",
        return_dict=False,
    )[0]
    assert ours.latents.shape == (1, 64, 255)
    assert relative_error(ours.latents.transpose(1, 2), theirs) < 1e-4


def test_codes_change_the_song_and_agree_in_a_batch(tiny_models, relative_error):
    plain, coded = songs(2, 10.2)
    coded = coded.edit(codes=range(51))
    together = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [plain, coded], AUTO, 5)
    alone = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [coded], AUTO, 6)
    without = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [coded.edit(codes=None)], AUTO, 6)
    assert relative_error(together.latents[1:], alone.latents) < 1e-5
    assert relative_error(without.latents, alone.latents) > 1e-2


@pytest.mark.parametrize(("count", "seconds"), [(2, 10.2), (4, 10.6), (8, 11.0), (2, 12.2), (4, 13.8)])
def test_item_k_of_a_batch_equals_its_single_run(tiny_models, relative_error, count, seconds):
    batch = songs(count, seconds)
    together = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, batch, AUTO, 100)
    assert together.meta.seeds == tuple(range(100, 100 + count))
    for k, song in enumerate(batch):
        alone = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [song], AUTO, 100 + k)
        assert relative_error(together.latents[k : k + 1], alone.latents) < 1e-5


def test_two_layouts_of_one_set_give_the_same_bits(tiny_models, load_song_models, tiny_2b_diffusers):
    song = songs(1, 10.2)
    diffusers = load_song_models(tiny_2b_diffusers)
    first = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, song, AUTO, 3)
    second = generate(PlainRuntime(), diffusers.decoder, diffusers.conditioner, song, AUTO, 3)
    assert torch.equal(first.latents, second.latents)


def test_a_song_decodes_to_its_exact_length(tiny_models):
    song = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, songs(2, 10.2), AUTO, 3)
    wave = decode(PlainRuntime(), tiny_models.vae, song.latents)
    assert wave.shape == (2, 2, frames_to_samples(255)) and wave.shape[-1] == 489_600
    assert float(wave.std()) > 1e-3


def test_an_xl_like_set_makes_a_song(load_song_models, tiny_xl_split):
    xl = load_song_models(tiny_xl_split)
    assert xl.conditioner.config.timbre_special_token
    song = generate(PlainRuntime(), xl.decoder, xl.conditioner, songs(1, 10.0), AUTO, 3)
    assert song.latents.shape == (1, 64, 250) and bool(song.latents.isfinite().all())


def test_progress_counts_the_steps(tiny_models):
    runtime = PlainRuntime()
    generate(runtime, tiny_models.decoder, tiny_models.conditioner, songs(1, 10), SamplingOptions(steps=3), 0)
    assert runtime.last_progress == (3, 3)


def test_cancel_ends_the_run_within_one_step(tiny_models):
    class CancelAtTwo(PlainRuntime):
        def progress(self, done, total):
            super().progress(done, total)
            self.cancel = done == 2

    runtime = CancelAtTwo()
    with pytest.raises(Cancelled):
        generate(runtime, tiny_models.decoder, tiny_models.conditioner, songs(1, 10), AUTO, 0)
    assert runtime.last_progress == (2, 8)


@pytest.mark.parametrize(
    ("network", "weight", "stage"),
    [
        ("text", "norm.weight", "text encoder"),
        ("condition", "lyric_encoder.norm.weight", "condition encoder"),
        ("decoder", "norm_out.weight", r"decoder \(DiT\), step 1 of 8"),
        ("vae", "decoder.conv2.weight", "VAE decode"),
    ],
)
def test_nan_in_the_weights_names_the_stage(load_song_models, tiny_2b_split, network, weight, stage):
    models = load_song_models(tiny_2b_split)
    handle = {
        "text": models.conditioner.text,
        "condition": models.conditioner.condition,
        "decoder": models.decoder.handle,
        "vae": models.vae,
    }[network]
    with torch.no_grad():
        # A copy: the weights are views of the file.
        broken = handle.module.get_parameter(weight).clone()
        broken.view(-1)[0] = float("nan")
        handle.module.load_state_dict({weight: broken}, strict=False, assign=True)
    with pytest.raises(ACEStepError, match=f"^{stage}.*not finite.*fp32"):
        song = generate(PlainRuntime(), models.decoder, models.conditioner, songs(1, 10), AUTO, 0)
        decode(PlainRuntime(), models.vae, song.latents)


def test_latents_that_are_not_finite_are_the_samplers_fault(tiny_models):
    latents = torch.zeros(1, 64, 10)
    latents[0, 3, 5] = float("nan")
    with pytest.raises(ACEStepError, match="^sampler .*1 of 640 values are not finite"):
        decode(PlainRuntime(), tiny_models.vae, latents)


@pytest.mark.parametrize("shape", [(64, 250), (1, 8, 250), (1, 64, 0)])
def test_decode_refuses_other_latents(tiny_models, shape):
    with pytest.raises(ValueError, match=r"expected \[songs, 64, frames\]"):
        decode(PlainRuntime(), tiny_models.vae, torch.zeros(shape))
