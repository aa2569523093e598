"""Repaint: modes, a loop written by hand, what is kept bit for bit in 200 random cases, and songs repainted again."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from acestep_models.audio.stereo import to_rate, to_stereo
from acestep_models.blueprint import Blueprint
from acestep_models.errors import ACEStepError
from acestep_models.pipelines.canvas import lay_out
from acestep_models.pipelines.decode import decode
from acestep_models.pipelines.encode import ConditionBatch
from acestep_models.pipelines.generate import Take
from acestep_models.pipelines.latent_source import latent_source
from acestep_models.pipelines.listen import Source, encode_source
from acestep_models.pipelines.repaint import MODES, RepaintSettings, repaint, repaint_settings
from acestep_models.pipelines.task import ConditionPlan, Work, encode_work
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.noise import Retake, song_noise
from acestep_models.sampling.schedule import SamplingOptions, flow_times
from acestep_models.spans import Span
from acestep_models.tasks import VARIANTS

sys.path.append(str(Path(__file__).parent))
from byhand import ByHand, reference, source  # noqa: E402

SONG = Blueprint(caption="warm piano", lyrics="[Verse]\none two", language="en", bpm=90, key="Am")
FRAMES = 53
TAKE = Take((SONG,), SamplingOptions(), 11)
SPANS = (Span(0.3, 0.6), Span(1.0, 1.5))
HOP, RATE = 1_920, 48_000


def as_variant(models, name):
    """The same weights, taken for another variant."""
    return replace(models, decoder=replace(models.decoder, variant=VARIANTS[name], shift=VARIANTS[name].shift))


def painted(models, canvas, take=TAKE, settings=None):
    return repaint(PlainRuntime(), models.decoder, models.conditioner, take, canvas, settings or MODES["balanced"](0.5))


@pytest.mark.parametrize(
    ("mode", "strength", "values"),
    [
        ("aggressive", 0.5, (0.0, 0, 0.01)),
        ("conservative", 0.5, (1.0, 25, 0.05)),
        ("balanced", 0.5, (0.5, 12, 0.025)),  # round(12.5): to the even number
        ("balanced", 0.0, (1.0, 25, 0.05)),
        ("balanced", 0.9, (0.1, 2, 0.01)),  # round(2.5); 0.005 would click
        ("balanced", 0.3, (0.7, 18, 0.035)),  # round(17.5)
        ("balanced", 0.8, (0.2, 5, 0.01)),
        ("balanced", 1.0, (0.0, 0, 0.01)),
    ],
)
def test_modes_are_the_table(mode, strength, values):
    found = repaint_settings(mode, strength)
    assert (found.injection, found.crossfade) == pytest.approx((values[0], values[2]))
    assert found.latent_crossfade == values[1] and isinstance(found.latent_crossfade, int)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: repaint_settings("bold"), "mode: expected one of balanced, conservative, aggressive; got 'bold'"),
        (lambda: repaint_settings("balanced", 1.1), "strength: expected 0 to 1, got 1.1"),
        (lambda: repaint_settings("conservative", float("nan")), "strength: expected 0 to 1"),
        (lambda: RepaintSettings(1.5, 0, 0.0), "injection: expected 0 to 1, got 1.5"),
        (lambda: RepaintSettings(0.5, 251, 0.0), "latent_crossfade: expected 0 to 250, got 251"),
        (lambda: RepaintSettings(0.5, -1, 0.0), "latent_crossfade: expected 0 to 250, got -1"),
        (lambda: RepaintSettings(0.5, 0, float("nan")), "crossfade: expected 0 to 10, got nan"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("variant", ["turbo", "base"])
@pytest.mark.parametrize(("injection", "crossfade"), [(0.0, 0), (0.5, 12), (0.5, 0), (1.0, 5)])
def test_a_repaint_equals_a_loop_written_by_hand(tiny_models, relative_error, variant, injection, crossfade):
    """Silence in the spans of the context, the kept part put back, a turbo model's last step without that."""
    models, sound = as_variant(tiny_models, variant), source(FRAMES, 700)
    canvas = lay_out(sound, SPANS)
    assert canvas.spans == ((7, 15), (25, 37))
    options = SamplingOptions(steps=5, scale=1.0, shift=2.0)
    found = painted(models, canvas, Take((SONG,), options, 11), RepaintSettings(injection, crossfade, 0.01)).latents
    work = Work("repaint", sound, spans=canvas.spans)
    batch = encode_work(PlainRuntime(), models.conditioner, [SONG], work, FRAMES).first
    hand, x, new = ByHand(models, [batch] * 5), song_noise(11, FRAMES), torch.zeros(FRAMES).bool()
    new[7:15] = new[25:37] = True
    steps = {0.0: 0, 0.5: 2, 1.0: 4 if variant == "turbo" else 5}[injection]
    with torch.inference_mode():
        for index, (t, after) in enumerate(pairwise(flow_times(5, 2.0))):
            x = x + (after - t) * hand.velocity(x, t, index)
            if index < steps:
                x = torch.where(new, x, after * song_noise(11, FRAMES) + (1 - after) * sound.latents)
    soft = new.float()
    for k in range(FRAMES):
        edges = [7 - k, k - 14, 25 - k, k - 36]  # frames to each edge
        rooms = [min(crossfade, 7), crossfade, crossfade, min(crossfade, FRAMES - 37)]
        ramps = [1 - far / (room + 1) for far, room in zip(edges, rooms, strict=True) if 1 <= far <= room]
        soft[k] = max([float(soft[k]), *ramps])
    expected = torch.where(soft == 0, sound.latents, soft * x + (1 - soft) * sound.latents)
    assert relative_error(found, expected) < 1e-5
    assert torch.equal(found[..., soft == 0], sound.latents[..., soft == 0]) and bool((soft == 0).any())


def test_the_new_part_hears_blueprint_seed_reference_and_retake(tiny_models, relative_error):
    canvas = lay_out(source(FRAMES), SPANS)
    takes = (
        TAKE,
        replace(TAKE, seed=12),
        replace(TAKE, blueprints=(SONG.edit(lyrics="three four"),)),
        replace(TAKE, reference=reference()),
        replace(TAKE, retake=Retake(40, 0.4)),
    )
    made = [painted(tiny_models, canvas, take).latents for take in takes]
    assert all(relative_error(one, two) > 1e-4 for k, one in enumerate(made) for two in made[:k])


def test_several_takes_of_one_source(tiny_models, relative_error):
    canvas = lay_out(source(FRAMES, 700), (Span(-0.4, 0.2), Span(2.0, 2.6)))
    songs = (SONG, SONG.edit(caption="tone " * 9), SONG.edit(seed=5))
    together = painted(tiny_models, canvas, replace(TAKE, blueprints=songs))
    assert together.latents.shape == (3, 64, canvas.frames)
    for k, song in enumerate(songs):
        alone = painted(tiny_models, canvas, Take((song,), SamplingOptions(), 11 + k)).latents
        assert relative_error(together.latents[k : k + 1], alone) < 1e-5
    meta = together.meta
    assert (meta.task, meta.frames, meta.song, meta.seeds) == ("repaint", canvas.frames, canvas.song, (11, 12, 5))


@dataclass(frozen=True)
class Stub:
    """A decoder that answers at once: the velocity is a sine of what it sees."""

    variant = VARIANTS["turbo"]
    shift = 3.0

    def run(self, runtime, conditions, start, schedule, solve):
        return solve(lambda x, t, corrector=False: torch.sin(3 * x), start, lambda done, music, x: None)


@pytest.fixture
def quick(tiny_models, monkeypatch):
    """Repaint without networks but the VAE: what is read has no part in what is kept."""

    def read(runtime, models, blueprints, work, frames):
        rows = torch.zeros(len(blueprints), frames, 1)
        return ConditionPlan(ConditionBatch(rows, None, rows, rows), None, 1.0)

    monkeypatch.setattr("acestep_models.pipelines.repaint.encode_work", read)
    return replace(tiny_models, decoder=Stub())


def random_sound(draw, torch_draw):
    """One sound of 1 to 1.3 s with its rate; 1 to 8 channels."""
    rate = draw.choice([48_000, 48_000, 44_100, 22_050, 96_000, 8_000])
    channels = draw.choice([1, 2, 2, 3, 6, 8])
    return 0.3 * torch.randn(1, channels, int(rate * draw.uniform(1.0, 1.3)), generator=torch_draw), rate


def random_spans(draw, seconds):
    """One to three of them in, before or behind a song, in no order, that may overlap or touch; some is left."""
    hole = draw.uniform(0.1, seconds - 0.3)
    spans = []
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(["before", "behind", "intro", "outro"])
        if kind == "intro":
            spans.append(Span(-draw.uniform(0.01, 0.9), draw.uniform(0.0, hole)))
        elif kind == "outro":
            spans.append(Span(draw.uniform(hole + 0.2, seconds), seconds + draw.uniform(0.0001, 0.9)))
        else:
            low, high = (0.0, hole) if kind == "before" else (hole + 0.2, seconds)
            start = draw.uniform(low, high - 0.01)
            spans.append(Span(start, draw.choice([draw.uniform(start + 1e-3, high), high])))
    return tuple(spans)


def outside(spans, seconds, intro, fade):
    """Samples of the result that lie outside of every span and crossfade, out of the seconds that were asked for."""
    count = intro + round(seconds * RATE)
    kept = torch.ones(count).bool()
    for span in spans:
        start = 0 if span.start < 0 else intro + int(span.start * RATE)
        end = intro + int(span.end * RATE) + 1
        kept[max(0, start - fade) : end + fade] = False
    return kept


@pytest.mark.parametrize("group", range(10))
def test_what_is_kept_is_the_source_bit_for_bit(quick, group):
    """200 cases: spans, lengths, sample rates, channels, modes, batches."""
    for case in range(20):
        seed = 20 * group + case
        draw, torch_draw = random.Random(seed), torch.Generator("cpu").manual_seed(seed)
        wave, rate = random_sound(draw, torch_draw)
        sound = to_rate(to_stereo(wave), rate)
        latents = torch.randn(1, 64, sound.shape[-1] // HOP, generator=torch_draw)
        spans = random_spans(draw, sound.shape[-1] / RATE)
        settings = repaint_settings(draw.choice(list(MODES)), draw.choice([0.0, 0.5, 0.77, 1.0]))
        canvas = lay_out(Source(latents, sound), spans)
        songs = (SONG,) * draw.choice([1, 1, 2])
        song = painted(quick, canvas, replace(TAKE, blueprints=songs), settings)
        splice = canvas.splice(settings.crossfade)
        heard = decode(PlainRuntime(), quick.vae, song.latents, splice)
        left = canvas.offset_frames * HOP
        kept = outside(spans, sound.shape[-1] / RATE, left, int(settings.crossfade * RATE + 1e-6))
        expected = torch.zeros(2, len(kept))
        expected[:, left:] = sound[0]
        assert heard.shape == (len(songs), 2, canvas.total) and heard.isfinite().all()
        for one in heard:
            assert torch.equal(one[:, : len(kept)][:, kept], expected[:, kept]), (seed, spans)
        asked = max([sound.shape[-1], *(int(span.end * RATE + 1e-6) for span in spans)])
        assert canvas.total - left == asked
        assert kept.any() and not kept.all()


def test_the_sound_of_a_real_repaint(tiny_models):
    """From sound to sound: encoded, repainted, decoded; 44.1 kHz mono, of a length that is no whole frame."""
    wave = 0.3 * torch.randn(1, 1, 66_150, generator=torch.Generator("cpu").manual_seed(1))
    sound = encode_source(PlainRuntime(), tiny_models.vae, wave, 44_100)
    assert sound.samples == 72_000
    canvas = lay_out(sound, (Span(-0.4, 0.1), Span(0.5, 0.8)))
    settings = repaint_settings("conservative")
    song = painted(tiny_models, canvas, settings=settings)
    heard = decode(PlainRuntime(), tiny_models.vae, song.latents, canvas.splice(settings.crossfade))
    plain = decode(PlainRuntime(), tiny_models.vae, song.latents)
    left, fade = 10 * HOP, 2_400
    assert heard.shape[-1] == left + 72_000
    for first, last in ((left + 4_800 + fade, left + 24_000 - fade), (left + 38_400 + fade, left + 72_000)):
        assert torch.equal(heard[..., first:last], sound.waveform[..., first - left : last - left])
    for first, last in ((0, left + 4_800), (left + 24_000, left + 38_400)):
        assert torch.equal(heard[..., first:last], plain[..., first:last])


def test_a_repaint_of_a_repaint_keeps_what_both_keep(tiny_models):
    """As the nodes chain it: the latents are not encoded again, and the end that grew has all its frames."""
    vae, sound = tiny_models.vae, source(FRAMES, 700)
    settings = repaint_settings("balanced")
    first = lay_out(sound, (Span(2.0, 2.53),))
    one = painted(tiny_models, first, settings=settings)
    heard = decode(PlainRuntime(), vae, one.latents, first.splice(settings.crossfade))
    again = latent_source(PlainRuntime(), vae, one.latents, (heard, RATE))
    assert again.samples == 121_440 and again.latents.shape[-1] == 64  # 63.25 frames
    assert torch.equal(again.latents, one.latents) and torch.equal(again.waveform, heard)
    second = lay_out(again, (Span(0.2, 0.4),))
    two = painted(tiny_models, second, replace(TAKE, seed=12), settings)
    assert two.latents.shape[-1] == 64 and torch.equal(two.latents[..., 22:], one.latents[..., 22:])
    final = decode(PlainRuntime(), vae, two.latents, second.splice(settings.crossfade))
    fade = 1_200
    assert final.shape == heard.shape
    assert torch.equal(final[..., 19_200 + fade :], heard[..., 19_200 + fade :])
    middle = slice(19_200 + fade, 96_000 - fade)
    assert torch.equal(final[..., middle], sound.waveform[..., middle])


def test_a_latent_alone_is_a_source_of_its_decoded_sound(tiny_models):
    latents = source(30).latents
    found = latent_source(PlainRuntime(), tiny_models.vae, latents)
    assert torch.equal(found.latents, latents)
    assert torch.equal(found.waveform, decode(PlainRuntime(), tiny_models.vae, latents))


@pytest.mark.parametrize(
    ("samples", "fits"), [(57_600, True), (59_519, True), (59_520, False), (55_681, True), (55_680, False)]
)
def test_sound_and_latent_have_one_length(tiny_models, samples, fits):
    """30 frames: from one sample more than 29 of them to one less than 31."""
    sound = 0.1 * torch.randn(1, 2, samples, generator=torch.Generator("cpu").manual_seed(0))
    latents = source(30).latents
    if fits:
        assert latent_source(PlainRuntime(), tiny_models.vae, latents, (sound, RATE)).samples == samples
        return
    with pytest.raises(ValueError, match=r"audio: the latent has 30 frames \(1.2 s\), the sound 1\.[12]"):
        latent_source(PlainRuntime(), tiny_models.vae, latents, (sound, RATE))


@pytest.mark.parametrize(
    ("latents", "sound", "message"),
    [
        (torch.zeros(2, 64, 30), None, r"latent: expected one song \[1, 64, frames\], got \[2, 64, 30\]"),
        (torch.full((1, 64, 30), float("nan")), None, "not finite"),
        (torch.zeros(1, 64, 30), (torch.zeros(1, 2, 57_600), RATE), "seconds of silence"),
        (torch.zeros(1, 64, 10), None, "expected 1 to 600 seconds of sound, got 0.4"),
    ],
)
def test_what_is_no_finished_song_is_refused(tiny_models, latents, sound, message):
    with pytest.raises((ValueError, ACEStepError), match=message):
        latent_source(PlainRuntime(), tiny_models.vae, latents, sound)
