"""Masks from spans, frame by frame, against §5.3 written out."""

import random

import pytest
import torch

from acestep_models.pipelines.mask import opened as opened_spans
from acestep_models.pipelines.mask import span_mask
from acestep_models.spans import Meter, Span, parse_spans

FRAMES = 250


def opened(mask):
    """Frames where a mask [1, 1, T] is 1, as (first, last) runs."""
    ones = [k for k, value in enumerate(mask[0, 0].tolist()) if value == 1.0]
    runs = []
    for k in ones:
        if runs and runs[-1][1] == k - 1:
            runs[-1][1] = k
        else:
            runs.append([k, k])
    return [tuple(run) for run in runs]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("2-6", [(50, 149)]),
        ("0-1", [(0, 24)]),
        ("9.96-10", [(249, 249)]),
        ("8-end", [(200, 249)]),
        ("1-2, 2-3", [(25, 74)]),
        ("4-6, 1-2, 5-7", [(25, 49), (100, 174)]),
        ("4.6-4.64", [(115, 115)]),
        ("1.001-1.002", [(25, 25)]),
        ("1.039-1.081", [(25, 26)]),
    ],
)
def test_seconds(text, runs):
    mask = span_mask(parse_spans(text, "seconds", length=10.0), FRAMES)
    assert mask.shape == (1, 1, FRAMES) and mask.dtype == torch.float32
    assert opened(mask) == runs
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_bars_are_the_frames_they_begin_and_end_in():
    """96 bpm, 4/4: a bar is 2.5 s, 62.5 frames."""
    mask = span_mask(parse_spans("2, 4-end", "bars", Meter(96.0, 4.0), 10.0), FRAMES)
    assert opened(mask) == [(62, 124), (187, 249)]


def test_random_spans_against_whole_numbers():
    draw = random.Random(0)
    for _ in range(300):
        frames = draw.randint(50, 2000)
        first = draw.randrange(0, frames * 1920 - 1)
        last = draw.randint(first + 1, frames * 1920)
        if last - first == frames * 1920:
            continue
        s = first // 1920
        e = min(max(last // 1920, s + 1), frames)
        mask = span_mask((Span(first / 48_000, last / 48_000),), frames)
        assert opened(mask) == [(s, e - 1)]


def test_a_feather_rises_and_falls_outside():
    mask = span_mask((Span(2.0, 3.0),), FRAMES, 0.12)[0, 0]
    torch.testing.assert_close(mask[46:51], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(mask[74:79], torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


@pytest.mark.parametrize(
    ("spans", "feather", "message"),
    [
        ((Span(8.0, 12.0),), 0.0, "8 to 12 s is not within the latent's 0 to 10 s, and a mask cannot make it longer"),
        ((Span(-2.0, 1.0),), 0.0, "-2 to 1 s is not within"),
        ((Span(20.0, 30.0),), 0.0, "20 to 30 s is not within"),
        ((Span(0.0, 10.0),), 0.0, "covers the whole song"),
        ((Span(0.0, 5.0), Span(4.0, 10.0)), 0.0, "covers the whole song"),
        ((), 0.0, "at least one span"),
        ((Span(1.0, 2.0),), -0.1, "feather: expected 0 to 10"),
        ((Span(1.0, 2.0),), float("nan"), "feather: expected 0 to 10"),
    ],
)
def test_what_no_mask_can_say_is_refused(spans, feather, message):
    with pytest.raises(ValueError, match=message):
        span_mask(spans, FRAMES, feather)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("2-2.01", [(2.0, 2.04)]),
        ("1.039-1.081", [(1.0, 1.08)]),
        ("4-6, 1-2, 6.03-7", [(1.0, 2.0), (4.0, 7.0)]),  # the gap is less than a frame
    ],
)
def test_what_a_mask_opens_is_told_in_frames(text, places):
    spans = parse_spans(text, "seconds", length=10.0)
    assert [(span.start, span.end) for span in opened_spans(spans, FRAMES)] == places
    runs = [(round(start * 25), round(end * 25) - 1) for start, end in places]
    assert opened(span_mask(spans, FRAMES)) == runs
