"""Guided songs end to end: 50 steps of base against diffusers, and the decoder called no more than it must be."""

from dataclasses import replace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.dit.config import activation_bytes
from acestep_models.pipelines.encode import encode_songs
from acestep_models.pipelines.generate import generate
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.dcw import DCW
from acestep_models.sampling.guidance import GUIDANCE
from acestep_models.sampling.noise import song_noise
from acestep_models.sampling.schedule import SamplingOptions, flow_times
from acestep_models.tasks import VARIANTS
from acestep_models.units import seconds_to_frames

SONG = Blueprint(
    caption="warm piano", lyrics="[Verse]\n" + "one two\n" * 12, language="en", bpm=90, key="Am", seconds=10.2
)


def songs(count, seconds=10.2):
    """Songs whose captions and lyrics differ in length."""
    return [
        Blueprint(caption="tone " * (k + 1), lyrics="la\n" * (5 * k + 1), bpm=60 + k, seconds=seconds)
        for k in range(count)
    ]


def as_base(models):
    """The same weights, taken for a base model."""
    return replace(models, decoder=replace(models.decoder, variant=VARIANTS["base"], shift=1.0))


@pytest.fixture(scope="module")
def base(tiny_models):
    """The tiny 2B-like set as a base model."""
    return as_base(tiny_models)


def read_by_diffusers(tiny):
    """diffusers' own pipeline on a tiny set, told that it is no turbo model."""
    from diffusers import AceStepPipeline

    pipeline = AceStepPipeline.from_pretrained(tiny.model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.register_to_config(is_turbo=False, model_version="base")
    pipeline.is_turbo = False  # what its __init__ read out of that config
    return pipeline


@pytest.fixture(scope="module")
def base_pipeline(tiny_2b_diffusers):
    """diffusers on the weights of `base`."""
    return read_by_diffusers(tiny_2b_diffusers)


@pytest.fixture(scope="module")
def xl_pipeline(tmp_path_factory, write_tiny):
    """diffusers on the weights of `tiny_xl_split`, with the special token that its timbre encoder lacks."""
    pipeline = read_by_diffusers(write_tiny(tmp_path_factory.mktemp("xl"), layout="diffusers", family="xl"))
    timbre = pipeline.condition_encoder.timbre_encoder

    def prepend(module, arguments, embedded):
        return torch.cat([timbre.special_token.expand(len(embedded), -1, -1), embedded], dim=1)

    timbre.embed_tokens.register_forward_hook(prepend)
    return pipeline


@pytest.fixture
def rows(base):
    """Rows of every call of the network, in order."""
    counts = []
    hook = base.decoder.handle.module.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
    yield counts
    hook.remove()


def make(models, blueprints, seed=11, **options):
    """Latents."""
    song = generate(PlainRuntime(), models.decoder, models.conditioner, blueprints, SamplingOptions(**options), seed)
    return song.latents


def theirs(pipeline, scale, shift, steps=50):
    """Latents [1, 64, T] of SONG and seed 11 by diffusers."""
    latents = pipeline(
        prompt=SONG.caption,
        lyrics=SONG.lyrics,
        vocal_language="en",
        audio_duration=SONG.seconds,
        bpm=90,
        keyscale="A minor",
        guidance_scale=scale,
        num_inference_steps=steps,
        shift=shift,
        latents=song_noise(11, seconds_to_frames(SONG.seconds)).transpose(1, 2),
        output_type="latent",
        return_dict=False,
    )[0]
    return latents.transpose(1, 2)


@pytest.mark.parametrize(("scale", "shift"), [(7.0, 1.0), (7.0, 3.0), (2.5, 1.0)])
def test_fifty_guided_steps_equal_diffusers(base, base_pipeline, relative_error, rows, scale, shift):
    expected = theirs(base_pipeline, scale, shift)
    assert relative_error(make(base, [SONG], scale=scale, shift=shift), expected) < 1e-4
    assert rows == [2] * 50
    unguided = make(base, [SONG], guidance="none", shift=shift)
    assert relative_error(unguided, expected) > 1e-2


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_fifty_steps_of_an_xl_like_set_equal_patched_diffusers(
    load_song_models, tiny_xl_split, xl_pipeline, relative_error, scale
):
    xl = as_base(load_song_models(tiny_xl_split))
    assert relative_error(make(xl, [SONG], scale=scale), theirs(xl_pipeline, scale, 1.0)) < 1e-4


def test_fifty_plain_steps_equal_diffusers(base, base_pipeline, relative_error, rows):
    found = make(base, [SONG], scale=1.0)
    assert rows == [1] * 50
    assert relative_error(found, theirs(base_pipeline, 1.0, 1.0)) < 1e-4


def test_base_on_auto_is_fifty_steps_of_apg_at_seven(base):
    assert torch.equal(make(base, [SONG]), make(base, [SONG], steps=50, shift=1.0, guidance="apg", scale=7.0))


def test_null_is_asked_only_within_the_interval(base, rows):
    make(base, songs(3), steps=10, shift=2.0, interval=(0.4, 0.8))
    assert rows == [6 if 0.4 <= t <= 0.8 else 3 for t in flow_times(10, 2.0)[:-1]]
    assert sorted(set(rows)) == [3, 6]


def test_heun_asks_for_null_by_the_time_of_each_look(base, rows):
    make(base, [SONG], steps=5, solver="heun", interval=(0.3, 0.7))
    times = (1.0, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2)
    assert rows == [2 if 0.3 <= t <= 0.7 else 1 for t in times]


def test_turbo_never_asks_for_null(tiny_models, rows):
    make(tiny_models, [SONG], guidance="apg", scale=7.0)
    assert rows == [1] * 8


def test_memory_is_asked_for_the_rows_that_run(base):
    class Meter(PlainRuntime):
        def place(self, handle, reserve=0):
            if handle is base.decoder.handle:
                asked.append(reserve)
            return super().place(handle, reserve)

    asked = []
    config = base.decoder.handle.module.config
    for guidance in ("none", "apg"):
        options = SamplingOptions(steps=1, guidance=guidance)
        generate(Meter(), base.decoder, base.conditioner, songs(2), options, 0)
    length = encode_songs(PlainRuntime(), base.conditioner, songs(2), 255).tokens.shape[1]
    assert asked == [activation_bytes(config, rows, 255, length, torch.float32) for rows in (2, 4)]


def test_the_interval_changes_only_what_lies_within_it(base, relative_error):
    """An interval without any of the times is no guidance at all."""
    plain = make(base, [SONG], steps=10, guidance="none")
    assert torch.equal(make(base, [SONG], steps=10, interval=(0.41, 0.49)), plain)
    assert relative_error(make(base, [SONG], steps=10, interval=(0.41, 0.51)), plain) > 1e-3


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
@pytest.mark.parametrize("guidance", ["none", *GUIDANCE])
def test_item_k_of_a_batch_equals_its_single_run(base, relative_error, guidance, solver):
    """With every extra on; the songs' texts differ in length, so their null tokens are padded too."""
    options = {
        "guidance": guidance,
        "solver": solver,
        "steps": 6,
        "scale": 4.0,
        "clamp": 1.5,
        "ema": 0.1,
        "dcw": DCW(),
    }
    batch = songs(3)
    together = make(base, batch, 100, **options)
    for k, song in enumerate(batch):
        assert relative_error(together[k : k + 1], make(base, [song], 100 + k, **options)) < 1e-5


def test_every_kind_and_extra_is_heard(base, relative_error):
    """No two of them make the same song."""
    kinds = [{"guidance": kind} for kind in ("none", *GUIDANCE)]
    extras = [{"clamp": 0.5}, {"ema": 0.2}, {"solver": "heun"}, {"solver": "sde"}]
    extras += [{"dcw": DCW(mode)} for mode in ("low", "high", "double", "pix")]
    made = [make(base, [SONG], steps=6, **options) for options in (*kinds, *extras)]
    for i, one in enumerate(made):
        for other in made[:i]:
            assert relative_error(one, other) > 1e-5


def test_a_run_leaves_nothing_behind_for_the_next(base):
    first = make(base, [SONG], steps=5, ema=0.2)
    assert torch.equal(make(base, [SONG], steps=5, ema=0.2), first)
