"""Tracks out of a mix, into it and around it: each by itself, and together with what they leave."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.add_track import add_track
from acestep_models.pipelines.complete import COMPLETE_PRESETS, complete
from acestep_models.pipelines.decode import decode
from acestep_models.pipelines.generate import Take, generate
from acestep_models.pipelines.stems import separate_stems
from acestep_models.pipelines.task import Work, encode_work
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import song_noise
from acestep_models.sampling.schedule import SamplingOptions, flow_times
from acestep_models.tasks import TASKS, TRACKS, VARIANTS

sys.path.append(str(Path(__file__).parent))
from byhand import ByHand, reference, source  # noqa: E402

SONG = Blueprint(caption="rock band")
FRAMES, EXTRA = 31, 1234
OPTIONS = SamplingOptions(steps=4, guidance="none")
TAKE = Take((SONG,), OPTIONS, 11)


@pytest.fixture(scope="module")
def base(tiny_models):
    """The tiny set as a base model."""
    return replace(tiny_models, decoder=replace(tiny_models.decoder, variant=VARIANTS["base"], shift=1.0))


class Log(PlainRuntime):
    """Which networks were placed, in order, repeats in a row once."""

    def __init__(self):
        super().__init__()
        self.placed = []

    def place(self, handle, reserve=0):
        if self.placed[-1:] != [handle]:
            self.placed.append(handle)
        return super().place(handle, reserve)


def stems(models, tracks, take=TAKE, runtime=None):
    sound = source(FRAMES, EXTRA)
    parts = models.decoder, models.conditioner, models.vae, take, sound, tracks
    return separate_stems(runtime or PlainRuntime(), *parts)


def test_each_stem_of_twelve_is_the_extraction_of_its_track(base):
    calls = []
    hook = base.conditioner.condition.module.register_forward_pre_hook(lambda *_: calls.append(1))
    runtime = Log()
    found = stems(base, TRACKS, runtime=runtime)
    hook.remove()
    assert len(calls) == 12
    assert found.names == TRACKS and [meta.tracks for meta in found.metas] == [(track,) for track in TRACKS]
    assert runtime.placed[-2:] == [base.decoder.handle, base.vae]
    assert runtime.placed.count(base.decoder.handle) == runtime.placed.count(base.vae) == 1
    for track, wave in zip(TRACKS, found.waveforms, strict=True):
        work = Work("extract", source(FRAMES, EXTRA), (track,))
        song = generate(PlainRuntime(), base.decoder, base.conditioner, [SONG], OPTIONS, 11, work)
        alone = decode(PlainRuntime(), base.vae, song.latents)[0]
        assert torch.equal(wave[:, :-EXTRA], alone) and not wave[:, -EXTRA:].any()
    for one, other in zip(found.waveforms[1:], found.waveforms, strict=False):
        assert float((one - other).abs().max()) > 1e-4


def test_stems_and_residual_are_the_mix(base):
    found, mix = stems(base, TRACKS), source(FRAMES, EXTRA).waveform[0]
    assert {wave.shape for wave in (*found.waveforms, found.residual)} == {mix.shape} == {(2, FRAMES * 1920 + EXTRA)}
    whole = torch.stack([*found.waveforms, found.residual]).double().sum(0)
    assert float((whole - mix).abs().max()) < 1e-6
    assert float(found.residual.abs().max()) > 1e-3


def test_a_track_of_its_own_is_the_same_in_any_company(base):
    one, two = stems(base, ("drums",)), stems(base, ("vocals", "drums"))
    assert torch.equal(one.waveforms[0], two.waveforms[1])


@pytest.mark.parametrize(
    ("tracks", "take", "message"),
    [
        ((), TAKE, "at least one, each once, got none"),
        (("drums", "drums"), TAKE, "each once, got drums, drums"),
        (("drums", "kazoo"), TAKE, "kazoo"),
        (("drums",), replace(TAKE, blueprints=(SONG, SONG)), "of one song, got 2"),
    ],
)
def test_stems_that_cannot_be_are_refused_before_any_network_moves(base, tracks, take, message):
    runtime = Log()
    with pytest.raises(ValueError, match=message):
        stems(base, tracks, take, runtime)
    assert runtime.placed == []


LIMITED = [name for name, task in TASKS.items() if task.variants == {"base"}]


def limited(task, models, runtime):
    """A task that few variants can do."""
    parts = runtime, models.decoder, models.conditioner, TAKE, source(FRAMES)
    tracks = ("drums",) if TASKS[task].most_tracks else ()
    return generate(*parts[:3], [SONG], OPTIONS, 11, Work(task, parts[-1], tracks))


@pytest.mark.parametrize("task", LIMITED)
@pytest.mark.parametrize("variant", [name for name, row in VARIANTS.items() if row.distilled])
def test_tasks_of_base_are_refused_on_turbo_before_any_network_moves(tiny_models, task, variant):
    models = replace(tiny_models, decoder=replace(tiny_models.decoder, variant=VARIANTS[variant]))
    runtime = Log()
    with pytest.raises(ValueError, match=f"{task}: the {variant} model cannot do it"):
        limited(task, models, runtime)
    assert runtime.placed == []


@pytest.mark.parametrize("task", LIMITED)
def test_sft_says_that_it_was_not_made_for_it_and_base_says_nothing(base, task):
    sft = replace(base, decoder=replace(base.decoder, variant=VARIANTS["sft"]))
    assert any("may do it badly" in note for note in limited(task, sft, PlainRuntime()).meta.schedule.notes)
    assert not any("badly" in note for note in limited(task, base, PlainRuntime()).meta.schedule.notes)


def test_a_variant_of_ones_own_may_make_songs_and_nothing_that_is_limited(base):
    own = replace(base, decoder=replace(base.decoder, variant=replace(VARIANTS["base"], steps=4)))
    parts = PlainRuntime(), own.decoder, own.conditioner, [SONG.edit(seconds=10.0)], OPTIONS, 11
    assert torch.equal(generate(*parts).latents, generate(parts[0], base.decoder, *parts[2:]).latents)
    with pytest.raises(ValueError, match="expected one of base, sft"):
        limited("extract", own, PlainRuntime())


@pytest.mark.parametrize("region", [None, (0.2, 0.8)])
def test_an_added_track_follows_its_conditions(base, region):
    sound = source(FRAMES)
    found = add_track(PlainRuntime(), base.decoder, base.conditioner, TAKE, sound, "guitar", region)
    work = Work("lego", sound, ("guitar",), ((5, 20),) if region else ())
    plan = encode_work(PlainRuntime(), base.conditioner, [SONG], work, FRAMES)
    expected = ByHand(base, [plan.first] * 4).follow(song_noise(11, FRAMES), flow_times(4, 1.0), "euler")
    assert torch.equal(found.latents, expected)
    assert torch.equal(plan.first.context[0, :, :64], sound.latents[0].T)
    assert plan.first.context[0, :, 64].tolist() == [1.0 if region is None or 5 <= k < 20 else 0.0 for k in range(31)]
    assert (found.meta.task, found.meta.tracks, found.meta.frames) == ("lego", ("guitar",), FRAMES)


@pytest.mark.parametrize("tracks", COMPLETE_PRESETS.values(), ids=COMPLETE_PRESETS)
def test_a_completed_song_follows_its_conditions(base, tracks):
    sound, take = source(FRAMES), replace(TAKE, reference=reference())
    found = complete(PlainRuntime(), base.decoder, base.conditioner, take, sound, tracks)
    work = Work("complete", sound, tracks, reference=reference())
    plan = encode_work(PlainRuntime(), base.conditioner, [SONG], work, FRAMES)
    expected = ByHand(base, [plan.first] * 4).follow(song_noise(11, FRAMES), flow_times(4, 1.0), "euler")
    assert torch.equal(found.latents, expected)


def test_vocal_to_song_asks_for_every_track_but_voices():
    assert set(COMPLETE_PRESETS["Vocal to song"]) == set(TRACKS) - {"vocals", "backing_vocals"}
    assert list(COMPLETE_PRESETS["Vocal to song"]) == [track for track in TRACKS if "vocals" not in track]


def test_one_progress_over_all_tracks(base):
    told = []

    class Told(PlainRuntime):
        def progress(self, done, total):
            told.append((done, total))

        def say(self, text):
            told.append(text)

    stems(base, ("vocals", "drums"), runtime=Told())
    sampled = [told.index("vocals: 1 of 2"), told.index("drums: 2 of 2")]
    assert told[sampled[0] + 1 : sampled[1]] == [(step, 8) for step in range(1, 5)]
    assert told[sampled[1] + 1 : sampled[1] + 5] == [(step, 8) for step in range(5, 9)]
