"""Covers: the switch of conditions to the step, starts out of the source, and the ends of both."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.cover import CoverSettings, cover
from acestep_models.pipelines.encode import ConditionBatch, encode_songs
from acestep_models.pipelines.generate import ConditionSchedule, Take, generate, switched
from acestep_models.pipelines.task import ConditionPlan, Work, encode_work
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import Noise, Retake, blend, song_noise
from acestep_models.sampling.schedule import SamplingOptions, flow_times, resolve
from acestep_models.tasks import VARIANTS

sys.path.append(str(Path(__file__).parent))
from byhand import ByHand, reference, source  # noqa: E402

SONG = Blueprint(caption="warm piano", lyrics="[Verse]\none two", language="en", bpm=90, key="Am")
FRAMES = 53  # odd: the decoder pads a frame, the tokenizer two


def as_variant(models, name):
    """The same weights, taken for another variant."""
    return replace(models, decoder=replace(models.decoder, variant=VARIANTS[name], shift=VARIANTS[name].shift))


def covered(models, take=None, runtime=None, sound=None, **settings):
    """A cover of the same source each time."""
    take = take or Take((SONG,), SamplingOptions(), 11)
    sound = sound or source(FRAMES)
    return cover(runtime or PlainRuntime(), models.decoder, models.conditioner, take, sound, CoverSettings(**settings))


def planned(models, strength, sound=None, songs=(SONG,), task="cover"):
    """What the steps of a cover read."""
    work = Work(task, sound or source(FRAMES), strength=strength)
    return encode_work(PlainRuntime(), models.conditioner, songs, work, FRAMES)


@pytest.fixture
def seen(tiny_models):
    """seen["dit"]: the first row's context of every call of the decoder; seen["encoder"]: calls of the encoder."""
    calls = {"dit": [], "encoder": 0}

    def count(module, given):
        calls["encoder"] += 1

    hooks = [
        tiny_models.decoder.handle.module.register_forward_pre_hook(lambda _, given: calls["dit"].append(given[1])),
        tiny_models.conditioner.condition.module.register_forward_pre_hook(count),
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def test_strength_one_never_makes_nor_reads_the_second_set(tiny_models, seen):
    covered(tiny_models)
    assert seen["encoder"] == 1 and len(seen["dit"]) == 8
    assert all(torch.equal(context, seen["dit"][0]) for context in seen["dit"])
    seen["encoder"] = 0
    covered(tiny_models, strength=0.5)
    assert seen["encoder"] == 2


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.124, 0.125, 0.5, 0.99])
def test_the_context_changes_at_its_step(tiny_models, seen, strength):
    covered(tiny_models, strength=strength)
    plan = planned(tiny_models, strength)
    first = int(8 * strength)
    assert len(seen["dit"]) == 8
    for index, context in enumerate(seen["dit"]):
        assert torch.equal(context, (plan.first if index < first else plan.second).context), index


def test_one_set_is_the_plain_loop_bit_by_bit(tiny_models):
    song = SONG.edit(seconds=10.2)
    batch = encode_songs(PlainRuntime(), tiny_models.conditioner, [song], 255)
    found = generate(PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [song], SamplingOptions(), 11)
    expected = ByHand(tiny_models, [batch] * 8).follow(song_noise(11, 255), flow_times(8, 3.0), "euler")
    assert torch.equal(found.latents, expected)


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
@pytest.mark.parametrize(
    ("variant", "scale", "strength"), [("turbo", None, 0.5), ("base", 5.0, 0.5), ("base", None, 0.7), ("sft", 5.0, 0.3)]
)
def test_a_cover_equals_a_loop_written_by_hand(tiny_models, relative_error, variant, scale, strength, solver):
    models = as_variant(tiny_models, variant)
    steps = 8 if variant == "turbo" else 9
    options = SamplingOptions(steps=steps, solver=solver, scale=scale or 1.0, shift=2.0)
    found = covered(models, Take((SONG,), options, 11), strength=strength).latents
    plan = planned(models, strength)
    switch = int(steps * strength)
    batches = [plan.first] * switch + [plan.second] * (steps - switch)
    noise = Noise((11,))
    hand = ByHand(models, batches, scale)
    expected = hand.follow(noise.start(FRAMES), flow_times(steps, 2.0), solver, lambda step: noise.step(step, FRAMES))
    assert plan.first.tokens.shape != plan.second.tokens.shape  # the two sentences differ in length
    assert relative_error(found, expected) < 1e-5
    wrong = ByHand(models, [plan.first] * (switch + 1) + [plan.second] * (steps - switch - 1), scale)
    wrong = wrong.follow(noise.start(FRAMES), flow_times(steps, 2.0), solver, lambda step: noise.step(step, FRAMES))
    assert relative_error(found, wrong) > 1e-3


@pytest.mark.parametrize("timbre", [None, 2])
def test_strength_zero_is_text_to_music_with_the_references(tiny_models, timbre):
    heard = reference(timbre) if timbre else None
    sound, song = source(255), SONG.edit(seconds=10.2)
    take = Take((song,), SamplingOptions(), 11, reference=heard)
    found = covered(tiny_models, take, sound=sound, strength=0.0).latents
    parts = PlainRuntime(), tiny_models.decoder, tiny_models.conditioner, [song], SamplingOptions(), 11
    assert torch.equal(found, generate(*parts, Work("text2music", reference=heard)).latents)
    assert torch.equal(found, generate(*parts).latents) == (heard is None)


def test_faithful_sees_the_source_itself(tiny_models, seen):
    covered(tiny_models, faithful=True)
    assert torch.equal(seen["dit"][0][0, :, :64], source(FRAMES).latents[0].T)
    covered(tiny_models)
    assert not torch.equal(seen["dit"][-1][0, :, :64], source(FRAMES).latents[0].T)


@pytest.mark.parametrize(
    ("amount", "first"), [(0.01, 0), (0.3, 4), (0.4, 5), (0.5, 6), (0.9, 7), (1.0, 7)], ids=lambda value: f"{value:g}"
)
def test_a_start_out_of_the_source_is_the_formula(tiny_models, relative_error, amount, first):
    """Times of shift 3 in eight steps: 1, .955, .9, .833, .75, .643, .5, .3; at 1 the last step is left."""
    times = flow_times(8, 3.0)
    assert first == min(range(8), key=lambda index: abs(times[index] - (1 - amount)))
    song = covered(tiny_models, start_noise=amount, strength=0.5)
    kept = times[first:]
    start = kept[0] * song_noise(11, FRAMES) + (1 - kept[0]) * source(FRAMES).latents
    plan, steps = planned(tiny_models, 0.5), len(kept) - 1
    batches = [plan.first] * (steps // 2) + [plan.second] * (steps - steps // 2)
    assert relative_error(song.latents, ByHand(tiny_models, batches).follow(start, kept, "euler")) < 1e-5
    assert song.meta.schedule.times == kept
    noise = {0: "all noise (", 4: "75", 5: "64", 6: "half noise, half source: ", 7: "30"}[first]
    words = f"{noise} % noise, {100 - int(noise)} % source: " if noise.isdigit() else noise
    note = song.meta.schedule.notes[-1]
    assert note.startswith(f"starts at t {kept[0]:.3f}, {words}") and note.endswith(f": {steps} of 8 steps left")


def test_no_start_noise_is_the_noise_alone(tiny_models):
    times = SamplingOptions(times=(0.9, 0.5))  # the source must not come in although the first time is below 1
    found = covered(tiny_models, Take((SONG,), times, 11)).latents
    schedule = resolve(times, tiny_models.decoder.variant, 3.0)
    hand = ByHand(tiny_models, [planned(tiny_models, 1.0).first] * 2)
    assert torch.equal(found, hand.follow(song_noise(11, FRAMES), schedule.times, "euler"))


def test_progress_counts_the_steps_that_are_left(tiny_models):
    runtime = PlainRuntime()
    covered(tiny_models, runtime=runtime, start_noise=0.5)
    assert runtime.last_progress == (2, 2)


def test_a_song_of_a_batch_is_the_cover_made_alone(tiny_models, relative_error):
    """Texts of different length are padded in both sets."""
    models = as_variant(tiny_models, "base")
    songs = (SONG, SONG.edit(caption="tone " * 9), SONG.edit(seed=5))
    options = SamplingOptions(steps=6, solver="heun")
    together = covered(models, Take(songs, options, 11), strength=0.5, start_noise=0.2).latents
    for k, song in enumerate(songs):
        alone = covered(models, Take((song,), options, 11 + k), strength=0.5, start_noise=0.2).latents
        assert relative_error(together[k : k + 1], alone) < 1e-5


def test_a_cover_can_be_taken_again(tiny_models, relative_error):
    take = Take((SONG,), SamplingOptions(), 11, Retake(40, 0.4))
    found = covered(tiny_models, take, start_noise=0.3)
    times = flow_times(8, 3.0)[4:]
    noise = blend(song_noise(11, FRAMES), song_noise(40, FRAMES), 0.4)
    start = times[0] * noise + (1 - times[0]) * source(FRAMES).latents
    batches = [planned(tiny_models, 1.0).first] * 4
    assert relative_error(found.latents, ByHand(tiny_models, batches).follow(start, times, "euler")) < 1e-5
    assert found.meta.retake == Retake(40, 0.4) and found.meta.task == "cover"


@pytest.mark.parametrize("share", [0.0, 0.49, 0.5, 0.58, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_sets_that_no_step_reads_are_left_out(share, steps):
    one, two = (ConditionBatch(*(torch.full((1, 1, 1), float(k)) for k in range(4))) for _ in range(2))
    conditions = switched(ConditionPlan(one, two, share), steps)
    read = [conditions.sets[conditions.at(step)] for step in range(steps)]
    assert read == [one if step < int(steps * share) else two for step in range(steps)]
    assert {id(batch) for batch in conditions.sets} == {id(batch) for batch in read}


@pytest.mark.parametrize("starts", [(), (1,), (0, 0), (0, 5, 3)])
def test_conditions_begin_at_the_first_step_and_rise(starts):
    with pytest.raises(ValueError, match="rising steps from 0"):
        ConditionSchedule(tuple((start, None) for start in starts))


@pytest.mark.parametrize("values", [{"strength": -0.1}, {"strength": float("nan")}, {"start_noise": 1.01}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))}: expected 0 to 1"):
        CoverSettings(**values)
