"""Where a repaint writes: spans against spec/audio.md §5.3 written out, exact lengths, and what has no place."""

from __future__ import annotations

import math
import random

import pytest
import torch

from acestep_models.pipelines.canvas import blend, lay_out
from acestep_models.pipelines.listen import Source
from acestep_models.spans import Span

RATE, HOP = 48_000, 1_920


def sound(samples, extra_frame=False, seed=0):
    """A source of that many samples, of which nothing was encoded; latents count from 1 on."""
    frames = -(-samples // HOP) if extra_frame else samples // HOP
    latents = torch.arange(1.0, frames + 1).expand(1, 64, frames).contiguous()
    return Source(latents, torch.randn(1, 2, samples, generator=torch.Generator("cpu").manual_seed(seed)))


def expected(samples, start, end):
    """One span by §5.3 -> (frames of the span, samples of the span, frames, samples of the result).

    Only the intro is in whole frames, and a span that reaches the end has all frames that are begun.
    """
    duration = samples / RATE
    whole = math.floor(25 * max(0.0, -start) + 0.5)
    intro = whole / 25
    left, right = whole * HOP, int(max(0.0, end - duration) * RATE + 1e-6)
    begin = 0.0 if start < 0 else start + intro
    stop = end + intro
    total = left + samples + right
    to_the_end = end >= duration
    frames = -(-total // HOP) if to_the_end else total // HOP
    s = int(begin * RATE // HOP)
    e = frames if to_the_end else int(stop * RATE // HOP)
    s = min(max(s, 0), frames - 1)
    e = min(max(e, s + 1), frames)
    return (s, e), (int(begin * RATE), total if to_the_end else int(stop * RATE)), frames, total


def random_span(draw, duration):
    """In 1/64 s, which floating point adds without error."""
    kind = draw.choice(["inside", "intro", "outro", "end"])
    places = sorted(draw.sample(range(1, int(duration * 64)), 2))
    start, end = (place / 64 for place in places)
    if kind == "intro":
        return -draw.randint(2, 200) / 64, start
    if kind == "outro":
        return end, duration + draw.randint(1, 200) / 64
    if kind == "end":
        return start, duration
    last = math.floor((duration * 25 - 1) * 64 / 25) / 64  # before the last whole frame
    return min(start, last - 1 / 64), min(end, last)


@pytest.mark.parametrize("seed", range(200))
def test_frames_are_the_formula(seed):
    draw = random.Random(seed)
    samples = draw.choice([draw.randint(RATE, 3 * RATE), draw.randint(25, 75) * HOP, 1000 * draw.randint(48, 144)])
    start, end = random_span(draw, samples / RATE)
    canvas = lay_out(sound(samples), (Span(start, end),))
    frames, places, length, total = expected(samples, start, end)
    assert canvas.spans == (frames,) and canvas.frames == length
    assert canvas.total == total == canvas.source.samples
    assert canvas.samples[0][0] == places[0] and abs(canvas.samples[0][1] - places[1]) <= 1


def test_the_source_stands_unchanged_behind_its_intro():
    source = sound(2 * RATE + 700)
    canvas = lay_out(source, (Span(-1.03, 0.5), Span(2.0, 2.5)))
    assert canvas.offset_frames == 26 and canvas.total == 26 * HOP + int(2.5 * RATE)
    assert torch.equal(canvas.source.latents[..., 26:76], source.latents)
    assert not canvas.source.latents[..., :26].any() and not canvas.source.latents[..., 76:].any()
    assert torch.equal(canvas.source.waveform[..., 26 * HOP : 26 * HOP + source.samples], source.waveform)
    assert not canvas.source.waveform[..., : 26 * HOP].any()
    assert canvas.spans == ((0, 38), (76, 89)) and canvas.frames == 89
    assert canvas.samples == ((0, 26 * HOP + RATE // 2), (26 * HOP + 2 * RATE, canvas.total))
    for (start, end), (first, last) in zip(canvas.spans, canvas.samples, strict=True):
        assert start * HOP <= first and last < (end + 1) * HOP


@pytest.mark.parametrize(
    ("samples", "span", "frames"),
    [
        (96_700, (1.0, 1.5), 50),  # ends with the source: its own frames, and 700 samples that fill none
        (96_700, (1.0, 96_700 / RATE), 51),
        (96_700, (1.0, 2.01), 51),  # into the rest: a frame for it
        (96_700, (1.0, 2.0), 51),
        (96_000, (1.0, 2.0), 50),
        (96_000, (1.0, 1.99), 50),
        (96_000, (1.0, 2.001), 51),
    ],
)
def test_frames_to_the_end_are_there_only_where_something_new_is(samples, span, frames):
    canvas = lay_out(sound(samples), (Span(*span),))
    assert canvas.frames == frames and canvas.splice(0.01).samples == canvas.total
    assert canvas.total == max(samples, math.floor(span[1] * RATE))


@pytest.mark.parametrize("extra_frame", [False, True])
@pytest.mark.parametrize("span", [(0.5, 1.0), (1.0, 2.5), (-1.0, 0.2), (1.0, 96_700 / RATE)])
def test_a_frame_that_holds_the_last_samples_is_never_lost(extra_frame, span):
    source = sound(96_700, extra_frame)
    canvas = lay_out(source, (Span(*span),))
    frames = source.latents.shape[-1]
    found = canvas.source.latents[..., canvas.offset_frames : canvas.offset_frames + frames]
    assert torch.equal(found, source.latents)
    assert canvas.frames in (canvas.total // HOP, -(-canvas.total // HOP))


@pytest.mark.parametrize(
    ("spans", "frames", "samples"),
    [
        ([(0.5, 1.0), (0.8, 1.2)], ((12, 30),), ((24_000, 57_600),)),  # overlap
        ([(1.0, 1.2), (0.5, 1.0)], ((12, 30),), ((24_000, 57_600),)),  # touch, and not in order
        ([(0.5, 1.0), (1.01, 1.2)], ((12, 30),), ((24_000, 48_000), (48_480, 57_600))),  # within one frame
        ([(1.0, 1.01), (1.02, 1.03)], ((25, 26),), ((48_000, 48_480), (48_960, 49_440))),
        ([(0.5, 0.6), (1.0, 1.2)], ((12, 15), (25, 30)), ((24_000, 28_800), (48_000, 57_600))),
        ([(1.0, 1.0000001)], ((25, 26),), ((48_000, 48_001),)),  # less than a sample
        ([(2.02, 3.0)], ((50, 75),), ((96_700, 144_000),)),  # a gap of 5 ms behind the source is closed
        ([(96_700 / RATE, 3.0)], ((50, 75),), ((96_700, 144_000),)),
        ([(-1.0, 0.0)], ((0, 25),), ((0, 48_000),)),
        ([(-5.0, -1e-5)], ((0, 125),), ((0, 240_000),)),  # a hair before the source: no hole between them
        ([(-0.01, 0.5)], ((0, 13),), ((0, 25_920),)),  # an intro has at least a frame
        ([(0.0, 0.5)], ((0, 12),), ((0, 24_000),)),
    ],
)
def test_spans_have_a_defined_place(spans, frames, samples):
    canvas = lay_out(sound(96_700), tuple(Span(*span) for span in spans))
    assert canvas.spans == frames and canvas.samples == samples


def test_a_decimal_is_the_sample_that_it_names():
    """1.16 · 48 000 is 55 679.999... in floating point."""
    canvas = lay_out(sound(96_000), (Span(0.29, 1.16),))
    assert canvas.samples == ((13_920, 55_680),) and canvas.spans == ((7, 29),)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ((), "at least one span"),
        ((Span(3.0, 4.0),), "outside of the song, which goes from 0 to 2.01458 s"),
        ((Span(-2.0, -1.0),), "outside of the song"),
        ((Span(0.5, 1.0), Span(2.1, 4.0)), "2.1 to 4 s lies outside"),
        ((Span(0.0, 3.0),), "covers the whole song"),
        ((Span(-1.0, 96_700 / RATE),), "covers the whole song"),
        ((Span(1.0, 600.5),), "would be 600.5 s long, and 600 s is the most"),
        ((Span(-300.0, 0.0), Span(1.0, 300.001)), "would be 600.001 s long"),
    ],
)
def test_what_has_no_place_is_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        lay_out(sound(96_700), spans)


def test_the_longest_song_has_a_place():
    assert lay_out(sound(96_700), (Span(-300.0, 0.0), Span(1.0, 300.0))).total == 600 * RATE


def test_the_splice_is_of_this_canvas():
    canvas = lay_out(sound(96_700), (Span(0.5, 1.0), Span(1.5, 3.0)))
    splice = canvas.splice(0.025)
    assert splice.waveform is canvas.source.waveform and splice.spans == canvas.samples
    assert (splice.fade, splice.frames, splice.song, splice.samples) == (1200, canvas.frames, canvas.song, 144_000)
    assert canvas.splice(0.0).fade == 0
    assert canvas.splice(0.29).fade == 13_920
    with pytest.raises(ValueError, match="fade"):
        canvas.splice(-0.1)


def test_the_identity_is_that_of_source_spans_and_length():
    spans = (Span(0.5, 1.0),)
    one = lay_out(sound(96_700), spans).song
    assert one == lay_out(sound(96_700), spans).song and len(one) == 16
    others = {
        lay_out(sound(96_700, seed=1), spans).song,
        lay_out(sound(96_701), spans).song,
        lay_out(sound(96_700), (Span(0.5, 1.01),)).song,
        lay_out(sound(96_700), (Span(0.5, 3.0),)).song,
    }
    assert len(others | {one}) == 5


@pytest.mark.parametrize("frames", [0, 1, 3, 12, 25])
def test_the_blend_is_the_formula(rng, frames):
    """soft · x + (1 - soft) · clean; ramps outside the spans; clean bit for bit elsewhere, and x in the spans."""
    x, clean = torch.randn(2, 64, 60, generator=rng(0)), torch.randn(1, 64, 60, generator=rng(1))
    clean[0, 0, 0] = -0.0
    spans = ((10, 15), (20, 50))
    soft = torch.zeros(60)
    for s, e in spans:
        before, behind = min(frames, s), min(frames, 60 - e)
        rise = torch.linspace(0, 1, before + 2)[1:-1] if before else torch.zeros(0)
        fall = torch.linspace(0, 1, behind + 2)[1:-1].flip(0) if behind else torch.zeros(0)
        part = torch.zeros(60)
        part[s - before : s], part[s:e], part[e : e + behind] = rise, 1.0, fall
        soft = torch.maximum(soft, part)
    found = blend(x, clean, spans, frames)
    torch.testing.assert_close(found, soft * x + (1 - soft) * clean)
    kept, new = soft == 0, soft == 1
    assert torch.equal(found[..., kept], clean[..., kept].expand(2, -1, -1))
    assert bool(kept.any()) == (frames < 10)
    assert torch.equal(found[..., new], x[..., new])
    assert not kept[0] or torch.signbit(found[:, 0, 0]).all()


def test_nothing_is_copied_where_nothing_is_padded():
    source = sound(96_700)
    inside = lay_out(source, (Span(0.5, 1.0),)).source
    assert inside.waveform is source.waveform and inside.latents is source.latents
    grown = lay_out(source, (Span(1.0, 3.0),)).source
    assert torch.equal(grown.waveform[..., :96_700], source.waveform) and not grown.waveform[..., 96_700:].any()


def test_crossfades_that_leave_nothing_of_the_source_are_refused():
    """0.2 s between the spans, and 0.3 s behind them with a tail of less than a frame."""
    canvas = lay_out(sound(96_000 + 700), (Span(0.0, 0.5), Span(0.7, 1.7)))
    assert canvas.splice(0.29).kept
    with pytest.raises(
        ValueError, match=r"^crossfade: what is new leaves 0.51\d* s of the source, and 0.31 s of crossfade"
    ):
        canvas.splice(0.31)
