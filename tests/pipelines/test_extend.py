"""Longer songs: what stays, how long they become, what the decoder hears of the rest, and codes that go on."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.encode import encode_tokens, read_codes
from acestep_models.pipelines.extend import ExtendSettings, extend
from acestep_models.pipelines.generate import Take
from acestep_models.pipelines.kept import heard_codes, kept_codes
from acestep_models.pipelines.listen import Source, source_codes
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import song_noise
from acestep_models.sampling.schedule import SamplingOptions, flow_times
from acestep_models.tasks import VARIANTS

sys.path.append(str(Path(__file__).parent))
from byhand import source  # noqa: E402

SONG = Blueprint(caption="warm piano", lyrics="[Verse]\none two", language="en", bpm=90, key="Am")
QUICK = SamplingOptions(steps=2)
SECOND, FADE = 48_000, 2_400  # samples; the crossfade is 0.05 s


def longer(models, sound, songs=(SONG,), options=QUICK, **settings):
    """An extension by seed 11."""
    take = Take(tuple(songs), options, 11)
    return extend(PlainRuntime(), models.decoder, models.conditioner, take, sound, ExtendSettings(**settings))


def decoded(made, seed=0):
    """What a decoder might make of it: noise, spliced."""
    count = made.song.latents.shape[-1] * 1920
    wave = torch.randn(len(made.song.latents), 2, count, generator=torch.Generator().manual_seed(seed))
    return wave, made.splice.apply(wave)


@pytest.mark.parametrize("extra", [0, 1, 777, 1919])
def test_three_times_thirty_seconds(tiny_models, extra):
    """Each time: the exact length, the sound before it bit for bit up to the crossfade, and its own latents."""
    sound = source(250, extra)
    for count in (1, 2, 3):
        made = longer(tiny_models, sound, seconds=30, context=2)
        new, wave = decoded(made)
        before = sound.samples
        assert wave.shape == (1, 2, 10 * SECOND + extra + count * 30 * SECOND)
        assert torch.equal(wave[..., : before - FADE], sound.waveform[..., : before - FADE])
        assert torch.equal(wave[..., before:], new[..., before : wave.shape[-1]])
        frames = made.song.latents.shape[-1]
        assert frames == -(-wave.shape[-1] // 1920) == made.song.meta.frames
        edge = before // 1920 - 25
        assert torch.equal(made.song.latents[..., :edge], sound.latents[..., :edge])
        assert made.song.meta.song == made.splice.song != ""
        sound = Source(made.song.latents, wave)


@pytest.mark.parametrize("extra", [0, 1, 1919])
def test_an_intro_moves_the_source_behind_it(tiny_models, extra):
    sound = source(53, extra)
    made = longer(tiny_models, sound, seconds=10, where="start", context=2)
    new, wave = decoded(made)
    first = 10 * SECOND
    assert wave.shape[-1] == first + sound.samples
    assert torch.equal(wave[..., :first], new[..., :first])
    assert torch.equal(wave[..., first + FADE :], sound.waveform[..., FADE:])
    assert made.song.latents.shape[-1] == 250 + 53
    assert torch.equal(made.song.latents[..., 275:], sound.latents[..., 25:])


def by_hand(models, sound, context, tokens, edge, frames):
    """The turbo loop over a window that ends in `frames` frames, of which the first `edge` stay; then the blend."""
    times, noise = flow_times(8, 3.0), song_noise(11, frames)
    clean, x = sound.latents[..., -edge:], noise.clone()
    with torch.inference_mode():
        for index, (t, after) in enumerate(pairwise(times)):
            v = models.decoder.handle.module(x.transpose(1, 2), context, tokens, torch.tensor([t])).transpose(1, 2)
            x = x + (after - t) * v
            if index < 7:  # a turbo model's last step is left out
                x[..., :edge] = after * noise[..., :edge] + (1 - after) * clean
    soft = torch.zeros(edge)
    soft[-25:] = torch.arange(1, 26) / 26
    return torch.cat([soft * x[..., :edge] + (1 - soft) * clean, x[..., edge:]], dim=-1)


def read_by(models, sentence, frames):
    return encode_tokens(PlainRuntime(), models.conditioner, SONG, frames, sentence)[0]


def test_without_codes_it_is_a_repaint_of_what_is_not_there_yet(tiny_models, relative_error):
    """53 frames hold 10 codes; of 10 s of new music 250 frames are made behind the last 50 of the source."""
    sound = source(53)
    found = longer(tiny_models, sound, options=SamplingOptions(), seconds=10).song
    tokens = read_by(tiny_models, "Repaint the mask area based on the given conditions:", 300)
    silence = tiny_models.conditioner.silence.take(300)[:, 50:]  # the frames that have these places
    seen = torch.cat([sound.latents[..., 3:].transpose(1, 2), silence], dim=1)
    mask = (torch.arange(300) >= 50).float()[None, :, None].expand(1, 300, 64)
    expected = by_hand(tiny_models, sound, torch.cat([seen, mask], dim=-1), tokens, 50, 300)
    assert torch.equal(found.latents[..., :28], sound.latents[..., :28])
    assert relative_error(found.latents[..., 3:], expected) < 1e-5
    assert found.meta.task == "repaint"


@pytest.mark.parametrize("extra", [0, 500])
def test_codes_are_followed_behind_those_of_the_source(tiny_models, relative_error, extra):
    """All of the window may be written; a frame that the last samples have begun hears silence."""
    sound, new = source(53, extra), tuple(range(100, 150))
    song, frames = SONG.edit(codes=new), 300 + bool(extra)
    found = longer(tiny_models, sound, (song,), SamplingOptions()).song
    kept = source_codes(PlainRuntime(), tiny_models.conditioner, Source(sound.latents[..., 3:], sound.waveform))
    assert len(kept) == 10 and kept == kept_codes(PlainRuntime(), tiny_models.conditioner, sound)
    hints = read_codes(PlainRuntime(), tiny_models.conditioner, kept + new)
    seen = torch.cat([hints, tiny_models.conditioner.silence.take(frames - 300)], dim=1)
    tokens = read_by(tiny_models, "Generate audio semantic tokens based on the given conditions:", frames)
    expected = by_hand(tiny_models, sound, torch.cat([seen, torch.ones_like(seen)], dim=-1), tokens, 50, frames)
    assert relative_error(found.latents[..., 3:], expected) < 1e-5
    assert found.meta.task == "text2music+codes" and found.meta.frames == 3 + frames
    other = longer(tiny_models, sound, (SONG.edit(codes=new[::-1]),), SamplingOptions()).song
    assert relative_error(other.latents, found.latents) > 1e-3


def test_codes_of_an_intro_stand_before_those_of_the_source(tiny_models):
    """The first code of the source changes what is made right before it; all contexts are one window long."""
    sound, contexts = source(53), []
    hook = tiny_models.decoder.handle.module.register_forward_pre_hook(lambda _, given: contexts.append(given[1]))
    longer(tiny_models, sound, (SONG.edit(codes=(7,) * 50),), where="start", context=4)
    hook.remove()
    kept = source_codes(PlainRuntime(), tiny_models.conditioner, Source(sound.latents[..., :50], sound.waveform))
    hints = read_codes(PlainRuntime(), tiny_models.conditioner, (7,) * 50 + kept)
    assert all(torch.equal(context[..., :64], hints) and bool((context[..., 64:] == 1).all()) for context in contexts)


def test_only_the_context_is_heard(tiny_models):
    """What lies before the window changes nothing of the new part, what lies in it does."""
    sound = source(200)
    base = longer(tiny_models, sound, seconds=10, context=4).song.latents
    for frame, heard in ((0, False), (99, False), (100, True), (199, True)):
        changed = sound.latents.clone()
        changed[..., frame] += 1
        other = longer(tiny_models, Source(changed, sound.waveform), seconds=10, context=4).song.latents
        assert torch.equal(other[..., 200:], base[..., 200:]) != heard, frame
    everything = [longer(tiny_models, sound, seconds=10, context=context).song.latents for context in (8, 60)]
    assert torch.equal(*everything) and not torch.equal(everything[0][..., 200:], base[..., 200:])


def test_codes_of_a_longer_context_end_in_those_of_a_shorter_one(tiny_models):
    """And what fills no whole frame is not heard, even where the latents have a frame for it."""
    conditioner, sound = tiny_models.conditioner, source(103, 40)
    few, more, all_of_it = (kept_codes(PlainRuntime(), conditioner, sound, seconds) for seconds in (2, 3.2, 60))
    assert (len(few), len(more), len(all_of_it)) == (10, 16, 20)
    assert all_of_it[-16:] == more and more[-10:] == few
    begun = Source(torch.cat([sound.latents, torch.randn(1, 64, 1)], dim=-1), sound.waveform)
    assert kept_codes(PlainRuntime(), conditioner, begun) == all_of_it
    first = kept_codes(PlainRuntime(), conditioner, sound, 2, "start")
    assert first == source_codes(PlainRuntime(), conditioner, sound)[:10]


@pytest.mark.parametrize(
    ("songs", "seconds", "expected"),
    [((SONG,), None, 30), ((SONG.edit(seconds=12.4),), None, 12.4), ((SONG.edit(seconds=12.4),), 3.5, 3.6)],
)
def test_how_long_the_new_part_is(tiny_models, songs, seconds, expected):
    made = longer(tiny_models, source(53), songs, seconds=seconds, context=2)
    assert made.seconds == expected and made.splice.samples == 53 * 1920 + round(expected * SECOND)


def test_songs_of_a_batch_share_the_source(tiny_models, relative_error):
    """Each is what it would be alone, guided too."""
    decoder = replace(tiny_models.decoder, variant=VARIANTS["base"], shift=1.0)
    models, sound = replace(tiny_models, decoder=decoder), source(53)
    songs = (SONG.edit(codes=(5,) * 50), SONG.edit(caption="tone " * 9, codes=tuple(range(50))))
    both = longer(models, sound, songs, context=4).song.latents
    for place, song in enumerate(songs):
        alone = longer(models, sound, (song.edit(seed=11 + place),), context=4).song.latents
        assert relative_error(both[place : place + 1], alone) < 1e-5
    assert torch.equal(both[..., :28], sound.latents[..., :28].expand(2, -1, -1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0.0}, r"seconds: expected 0\.2 to 600 s of new music, got 0"),
        ({"where": "middle"}, "where: expected one of end, start; got 'middle'"),
        ({"crossfade": -0.1}, "crossfade: expected 0 to the context"),
        ({"context": 1.8, "seconds": 10}, "^context: expected 2 to 600 s of the source to be heard, got 1.8$"),
        ({"context": 0.0, "seconds": 10}, "^context: expected 2 to 600 s of the source to be heard, got 0$"),
        ({"context": 601, "seconds": 10}, "^context: expected 2 to 600 s of the source to be heard, got 601$"),
        ({"context": float("nan"), "seconds": 10}, "^context: expected 2 to 600 s of the source to be heard, got nan$"),
        (
            {"seconds": 598.0},
            r"^seconds: 598 s of new music and the source of 2.12 s would be 600.12 s, .* at most 597.8 s",
        ),
    ],
)
def test_what_cannot_be_extended_is_said(tiny_models, settings, message):
    with pytest.raises(ValueError, match=message):
        longer(tiny_models, source(53), **settings)


@pytest.mark.parametrize(
    ("songs", "seconds", "message"),
    [
        ((SONG.edit(codes=(1,) * 60),), 10, "10 s has 50 codes, and the blueprint holds 60, which are 12 s; set sec"),
        (
            (SONG.edit(codes=(1,) * 50),),
            4,
            r"10 s; set seconds to that, or leave the codes out \(connect the Blueprint",
        ),
        ((SONG.edit(codes=(1,) * 50),), 12, r"or write the codes again \(WriteCodes\) for 12 s"),
        ((SONG.edit(codes=(1,) * 50), SONG), 10, "codes: some songs of the blueprint have codes and some have none"),
        ((SONG.edit(seconds=10), SONG.edit(seconds=20)), None, "songs of one batch have one length"),
        ((Blueprint(codes=(1,) * 50),), None, "caption and lyrics are both empty"),
    ],
)
def test_songs_that_do_not_fit_are_refused(tiny_models, songs, seconds, message):
    with pytest.raises(ValueError, match=message):
        longer(tiny_models, source(53), songs, seconds=seconds)


def test_a_crossfade_over_all_of_the_source_is_refused_before_anything_runs(tiny_models):
    sound, ran = source(53), []
    hook = tiny_models.decoder.handle.module.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match="crossfade: what is new leaves 2.12 s of the source, and 2.2 s of crossfade"):
        longer(tiny_models, sound, seconds=10, context=60, crossfade=2.2)
    hook.remove()
    assert not ran


def test_heard_codes_are_whole_ones():
    assert [heard_codes(source(frames), 2.1) for frames in (25, 53, 54, 55, 56)] == [5, 10, 10, 11, 11]
