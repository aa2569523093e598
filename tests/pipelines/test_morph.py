"""Morphs of a tiny model against a loop written by hand, and the identity."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.generate import Take
from acestep_models.pipelines.morph import MorphSettings, joined, morph
from acestep_models.pipelines.task import Work, encode_work
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.dcw import DCW
from acestep_models.sampling.noise import Noise
from acestep_models.sampling.schedule import SamplingOptions, flow_times
from acestep_models.tasks import VARIANTS

sys.path.append(str(Path(__file__).parent))
from byhand import ByHand, reference, source  # noqa: E402

FRAMES = 53  # odd: the decoder pads a frame, the tokenizer two
NEW = Blueprint(caption="loud brass", lyrics="[Verse]\nthree four five six", language="en", bpm=90, key="Am")
OLD = NEW.edit(caption="warm piano", lyrics="[Verse]\none two")
TASKS = {"text": "text2music", "codes": "cover", "faithful": "cover-faithful"}


def as_variant(models, name):
    """The same weights, taken for another variant."""
    return replace(models, decoder=replace(models.decoder, variant=VARIANTS[name], shift=VARIANTS[name].shift))


def morphed(models, new=(NEW,), old=(OLD,), options=None, timbre=None, runtime=None, **settings):
    """One source, turned."""
    take = Take(tuple(new), options or SamplingOptions(), 11, reference=timbre)
    parts = runtime or PlainRuntime(), models.decoder, models.conditioner, take, source(FRAMES), tuple(old)
    return morph(*parts, MorphSettings(**settings))


def by_hand(models, structure, times, window, averaging=1, scale=None, timbre=None):
    """Both velocities by themselves, and the formula of spec/audio.md §5.7."""
    work = Work(TASKS[structure], None if structure == "text" else source(FRAMES), reference=timbre)
    sets = [encode_work(PlainRuntime(), models.conditioner, (song,), work, FRAMES).first for song in (NEW, OLD)]
    wants, has = (ByHand(models, [batch] * len(times), scale) for batch in sets)
    src, noise = source(FRAMES).latents, Noise((11,))
    z = src
    with torch.inference_mode():
        for index, (t, t_prev) in enumerate(pairwise(times)):
            if index < window[0]:
                continue
            draws = [noise.step(index * averaging + k, FRAMES) for k in range(averaging)]
            if index < window[1]:
                d = torch.zeros_like(z)
                for draw in draws:
                    zs = (1 - t) * src + t * draw
                    d += wants.velocity(z + zs - src, t, index) - has.velocity(zs, t, index)
                z = z + (t_prev - t) * d / averaging
                continue
            if index == window[1]:
                z = z + (1 - t) * src + t * draws[0] - src
            z = z + (t_prev - t) * wants.velocity(z, t, index)
    return z


@pytest.mark.parametrize("structure", TASKS)
@pytest.mark.parametrize(
    ("start", "end", "window", "averaging"),
    [(0.0, 1.0, (0, 8), 1), (0.3, 1.0, (2, 8), 2), (0.0, 0.6, (0, 4), 1), (0.26, 0.74, (2, 5), 3)],
)
def test_a_morph_equals_a_loop_written_by_hand(tiny_models, relative_error, structure, start, end, window, averaging):
    song = morphed(tiny_models, structure=structure, window_start=start, window_end=end, averaging=averaging)
    times = flow_times(8, 3.0)
    expected = by_hand(tiny_models, structure, times, window, averaging)
    assert relative_error(song.latents, expected) < 1e-5
    assert relative_error(song.latents, source(FRAMES).latents) > 1e-2
    assert song.meta.schedule.times == times[window[0] :] and song.meta.frames == FRAMES
    assert song.meta.schedule.notes[-1].startswith(f"turned in {window[1] - window[0]} of 8 steps, from t ")


@pytest.mark.parametrize("variant", ["base", "sft"])
@pytest.mark.parametrize(("end", "last"), [(1.0, 6), (0.5, 3)])
def test_guidance_has_a_momentum_for_each_of_the_two(tiny_models, relative_error, variant, end, last):
    """APG, which remembers; the target's memory goes on after the source has left."""
    models = as_variant(tiny_models, variant)
    options = SamplingOptions(steps=6, scale=5.0, shift=2.0)
    found = morphed(models, options=options, window_start=0.2, window_end=end, averaging=2, timbre=reference()).latents
    times = flow_times(6, 2.0)
    expected = by_hand(models, "text", times, (1, last), 2, 5.0, reference())
    assert relative_error(found, expected) < 1e-5
    unguided = by_hand(models, "text", times, (1, last), 2, None, reference())
    assert relative_error(found, unguided) > 1e-3


def test_turbo_has_its_guidance_built_in(tiny_models):
    asked = morphed(tiny_models, options=SamplingOptions(scale=7.0))
    assert torch.equal(asked.latents, morphed(tiny_models).latents)
    assert any("guidance is not used" in note for note in asked.meta.schedule.notes)


@pytest.mark.parametrize(("variant", "averaging"), [("turbo", 1), ("turbo", 3), ("base", 1), ("base", 2)])
@pytest.mark.parametrize("structure", TASKS)
def test_a_text_morphed_to_itself_is_the_source(tiny_models, variant, averaging, structure):
    models = as_variant(tiny_models, variant)
    found = morphed(models, old=(NEW,), options=SamplingOptions(steps=8), averaging=averaging, structure=structure)
    assert float((found.latents - source(FRAMES).latents).abs().max()) < 1e-4


def test_behind_its_window_a_morph_follows_the_new_text_alone(tiny_models):
    """Rows of each call of the decoder: two while both are asked, then one."""
    rows = []
    hook = tiny_models.decoder.handle.module.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    runtime = PlainRuntime()
    morphed(tiny_models, runtime=runtime, window_start=0.25, window_end=0.75, averaging=2)
    hook.remove()
    assert rows == [2] * 8 + [1] * 2
    assert runtime.last_progress == (6, 6)


def test_a_song_of_a_batch_is_the_morph_made_alone(tiny_models, relative_error):
    models, options = as_variant(tiny_models, "base"), SamplingOptions(steps=4)
    songs = (NEW, NEW.edit(caption="tone " * 9), NEW.edit(seed=5))
    olds = (OLD, OLD.edit(lyrics="[Verse]\n" + "la " * 20), OLD)
    together = morphed(models, songs, olds, options, window_end=0.75)
    assert together.meta.seeds == (11, 12, 5)
    for k, (song, old) in enumerate(zip(songs, olds, strict=True)):
        take = Take((song,), options, 11 + k)
        parts = PlainRuntime(), models.decoder, models.conditioner, take, source(FRAMES), (old,)
        alone = morph(*parts, MorphSettings(window_end=0.75)).latents
        assert relative_error(together.latents[k : k + 1], alone) < 1e-5
    shared = morphed(models, songs[:2], (OLD,), options, window_end=0.75).latents
    assert relative_error(shared, morphed(models, songs[:2], (OLD, OLD), options, window_end=0.75).latents) < 1e-6


def test_codes_and_lengths_of_the_papers_are_not_read(tiny_models):
    plain = morphed(tiny_models).latents
    coded = NEW.edit(codes=tuple(range(60)), seconds=12.0)
    found = morphed(tiny_models, new=(coded,), old=(OLD.edit(seconds=30.0),))
    assert torch.equal(found.latents, plain) and found.meta.blueprints[0].codes is None


def test_two_batches_of_unequal_length_are_padded_and_masked(tiny_models):
    work = Work("text2music")
    one, other = (
        encode_work(PlainRuntime(), tiny_models.conditioner, songs, work, FRAMES).first
        for songs in ((NEW,), (OLD, OLD.edit(lyrics="[Verse]\n" + "la " * 20)))
    )
    both = joined(one, other)
    lengths = [part.tokens.shape[1] for part in (one, other)]
    assert both.tokens.shape[:2] == (3, max(lengths)) and both.context.shape[0] == 3
    assert torch.equal(both.tokens[0, : lengths[0]], one.tokens[0]) and not both.tokens[0, lengths[0] :].any()
    assert both.mask[0].tolist() == [True] * lengths[0] + [False] * (max(lengths) - lengths[0])
    assert torch.equal(both.mask[1:], other.mask)
    assert joined(one, one).mask is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"structure": "tune"}, "structure: expected one of text, codes, faithful; got 'tune'"),
        (
            {"window_start": 0.5, "window_end": 0.5},
            "window_start, window_end: expected 0 <= start < end <= 1, got 0.5 and 0.5",
        ),
        ({"window_start": -0.1}, "window_start, window_end: expected"),
        ({"window_end": 1.1}, "window_start, window_end: expected"),
        ({"averaging": 0}, "averaging: expected 1 to 8, got 0"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        MorphSettings(**values)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": SamplingOptions(solver="heun")}, "solver: a morph takes Euler's steps, got heun; set solver"),
        ({"options": SamplingOptions(solver="sde")}, "solver: a morph takes Euler's steps, got sde"),
        ({"options": SamplingOptions(dcw=DCW("low"))}, "dcw: .*got low; set dcw to off"),
        (
            {"window_start": 0.3, "window_end": 0.35},
            "of 8 steps none lies between 0.3 and 0.35; move them at least 0.12 apart",
        ),
        ({"old": (OLD, OLD)}, "source_blueprint: expected 1 song, or as many as the blueprint's 1; got 2"),
        ({"old": (Blueprint(),)}, "caption"),
    ],
)
def test_what_cannot_be_morphed_is_refused(tiny_models, given, message):
    with pytest.raises(ValueError, match=message):
        morphed(tiny_models, **given)
