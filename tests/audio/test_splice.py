"""Splices and ramps against spec/audio.md §5.4 written out, and against the source bit by bit."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from acestep_models.audio.splice import Splice, blended, ramps, reaches

HOP = 1920


def one_ramp(start, end, total, fade):
    """§5.4 place by place: 1 inside, linspace(0, 1, f + 2)[1:-1] of the room there is before it, mirrored behind."""
    mask = [0.0] * total
    before, behind = min(fade, start), min(fade, total - end)
    for k in range(1, before + 1):
        mask[start - before + k - 1] = k / (before + 1)
    for k in range(1, behind + 1):
        mask[end + behind - k] = k / (behind + 1)
    mask[start:end] = [1.0] * (end - start)
    return mask


@pytest.mark.parametrize(
    ("spans", "total", "fade"),
    [
        (((3, 6),), 12, 0),
        (((3, 6),), 12, 2),
        (((3, 6),), 12, 10),
        (((0, 4),), 9, 3),
        (((5, 9),), 9, 3),
        (((0, 9),), 9, 3),
        (((2, 4), (7, 8)), 12, 3),
        (((2, 4), (4, 8)), 12, 3),
        (((6, 8), (1, 7)), 12, 2),
    ],
)
def test_ramps_are_the_formula_and_the_larger_value_where_they_meet(spans, total, fade):
    rows = [one_ramp(start, end, total, fade) for start, end in spans]
    wanted = torch.tensor([max(values) for values in zip(*rows, strict=True)])
    assert torch.allclose(ramps(spans, total, fade), wanted, atol=1e-6)


def test_ramps_are_as_written_in_the_specification():
    expected = torch.cat([torch.zeros(2), torch.linspace(0, 1, 5)[1:-1], torch.ones(2)])
    found = ramps(((5, 7),), 12, 3)
    assert torch.equal(found[:7], expected)
    assert torch.equal(found[7:10], expected[2:5].flip(0)) and not found[10:].any()


@pytest.mark.parametrize("span", [(3, 3), (4, 3), (-1, 3), (3, 13)])
def test_a_span_that_is_empty_or_outside_is_refused(span):
    with pytest.raises(ValueError, match="expected places within 0 to 12"):
        ramps((span,), 12, 1)


def test_blended_takes_either_side_bit_for_bit():
    new = torch.tensor([math.nan, math.inf, -0.0, 1.0, 3.0])
    kept = torch.tensor([-0.0, 1e-42, math.nan, 5.0, 5.0])
    found = blended(new, kept, torch.tensor([0.0, 0.0, 1.0, 0.0, 0.25]))
    bits = [
        value.view(torch.int32)
        for value in (found, torch.stack([kept[0], kept[1], new[2], kept[3], torch.tensor(4.5)]))
    ]
    assert torch.equal(*bits)


def a_splice(spans, samples, fade=0, frames=None, seed=0):
    """A splice over noise that holds -0.0 and denormals too."""
    wave = torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(seed))
    wave[..., ::7], wave[..., 3::11] = -0.0, 1e-42
    return Splice(wave, tuple(spans), fade, frames or samples // HOP, "song")


def random_case(draw):
    """Frames, length, disjoint spans and a fade: cropped, whole or with a tail."""
    frames = draw.randint(1, 12)
    samples = frames * HOP + draw.choice([0, draw.randint(-HOP + 1, -1), draw.randint(1, HOP - 1)])
    decoded = min(samples, frames * HOP)
    edges = sorted(draw.sample(range(decoded + 1), 2 * draw.randint(1, 4)))
    return frames, samples, list(zip(edges[::2], edges[1::2], strict=True)), draw.choice([0, 1, 7, 480, 2400])


def test_outside_of_spans_and_fades_every_sample_is_the_sources_in_300_random_cases():
    draw = random.Random(5)
    for seed in range(300):
        frames, samples, spans, fade = random_case(draw)
        splice = a_splice(spans, samples, fade, frames, seed)
        decoded = torch.randn(draw.choice([1, 2]), 2, frames * HOP, generator=torch.Generator().manual_seed(-seed - 1))
        made = splice.apply(decoded)
        assert made.shape == (len(decoded), 2, samples)
        kept, new = torch.ones(samples, dtype=torch.bool), torch.zeros(samples, dtype=torch.bool)
        for start, end in spans:
            new[start:end] = True
            kept[max(0, start - fade) : end + fade] = False
        kept[frames * HOP :] = True  # the tail that no frame holds
        source = splice.waveform.expand_as(made)
        assert torch.equal(made[..., kept].view(torch.int32), source[..., kept].contiguous().view(torch.int32)), seed
        assert torch.equal(made[..., new], decoded[..., : len(new)][..., new[: frames * HOP]]), seed
        told = torch.zeros(samples, dtype=torch.bool)
        for start, end in splice.kept:
            told[round(start * 48_000) : round(end * 48_000)] = True
        assert torch.equal(told, kept), seed


def test_between_them_the_crossfade_is_its_formula():
    splice = a_splice([(3000, 5000)], 4 * HOP, 100)
    made = splice.apply(torch.ones(1, 2, 4 * HOP))
    for k in (1, 37, 100):
        weight = k / 101
        for place in (3000 - 101 + k, 5000 + 100 - k):
            wanted = weight + (1 - weight) * splice.waveform[..., place]
            assert torch.allclose(made[..., place], wanted, atol=1e-6)


SLOPE = 2 * math.pi / 48_000


def tone(pitch, samples, level=0.5, phase=0.0):
    return level * torch.sin(SLOPE * pitch * torch.arange(samples, dtype=torch.float64) + phase).float()


@pytest.mark.parametrize("phase", [0.0, 1.0, math.pi / 2, math.pi])
def test_a_seam_between_two_tones_has_no_step_larger_than_their_slopes(phase):
    """Steps of a mixture: at most the steeper tone's, plus both levels spread over the crossfade of 480."""
    kept, new = tone(220.0, 24 * HOP), tone(330.0, 24 * HOP, phase=phase)
    splice = Splice(kept.expand(1, 2, -1), ((10_000, 30_000),), 480, 24, "song")
    made = splice.apply(new.expand(1, 2, -1))
    limit = 0.5 * SLOPE * 330.0
    assert float(made.diff(dim=-1).abs().max()) <= 1.2 * limit
    cut = Splice(kept.expand(1, 2, -1), ((10_000, 30_000),), 0, 24, "song").apply(new.expand(1, 2, -1))
    assert phase == 0.0 or float(cut.diff(dim=-1).abs().max()) > 5 * limit  # the test can tell


def test_apply_is_the_plain_formula_over_the_whole_song_bit_for_bit():
    draw = random.Random(9)
    for seed in range(100):
        frames, samples, spans, fade = random_case(draw)
        draw.shuffle(spans)
        splice = a_splice(spans, samples, fade, frames, seed)
        decoded = torch.randn(2, 2, frames * HOP, generator=torch.Generator().manual_seed(-seed - 1))
        before, count = splice.waveform.clone(), min(samples, frames * HOP)
        mask = ramps(splice.spans, count, fade)
        mixed = blended(decoded[..., :count], splice.waveform[..., :count].expand(2, -1, -1), mask)
        wanted = torch.cat([mixed, splice.waveform[..., count:].expand(2, -1, -1)], dim=-1)
        assert torch.equal(splice.apply(decoded).view(torch.int32), wanted.view(torch.int32)), seed
        assert torch.equal(splice.waveform.view(torch.int32), before.view(torch.int32))
        heard = torch.zeros(frames).bool()
        for start, end in splice.heard_frames:
            heard[start:end] = True
        used = (mask > 0).nonzero()[:, 0] // HOP
        assert torch.equal(heard.nonzero()[:, 0], used.unique()), seed


class Sizes(TorchDispatchMode):
    """Notes the elements of every tensor that is made (and is no view of another)."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        result = call(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result._is_view() and not any(result is one for one in args):
            self.made.append(result.numel())
        return result


def test_a_short_span_of_a_long_song_costs_what_it_is_long():
    """Two songs of 60 s, 0.6 s new: the result is made once, and everything else is no longer than the span."""
    samples, fade = 1500 * HOP, 480
    spans = ((700 * HOP, 710 * HOP), (711 * HOP, 715 * HOP))
    splice = Splice(torch.zeros(1, 2, samples), spans, fade, 1500, "song")
    decoded = torch.ones(2, 2, samples)
    with Sizes() as sizes:
        splice.apply(decoded)
    whole, longest = 2 * 2 * samples, 2 * 2 * (10 * HOP + 2 * fade)
    assert max(sizes.made) == whole and [made for made in sizes.made if made > longest] == [whole]


@pytest.mark.parametrize(
    ("spans", "fade", "expected"),
    [
        (((10, 20),), 3, ((7, 23),)),
        (((2, 5), (95, 99)), 3, ((0, 8), (92, 100))),
        (((30, 40), (10, 24)), 3, ((7, 43),)),  # they touch
        (((30, 40), (10, 23)), 3, ((7, 26), (27, 43))),
        (((10, 50), (20, 30)), 0, ((10, 50),)),
    ],
)
def test_reaches_are_where_the_ramps_are(spans, fade, expected):
    assert reaches(spans, 100, fade) == expected
    inside = torch.zeros(100).bool()
    for start, end in expected:
        inside[start:end] = True
    assert torch.equal(ramps(spans, 100, fade) > 0, inside)


@pytest.mark.parametrize("shape", [(1, 2, 3 * HOP), (1, 2, 5 * HOP), (1, 1, 4 * HOP), (2, 4 * HOP)])
def test_a_sound_of_another_length_is_refused(shape):
    with pytest.raises(ValueError, match="splice: belongs to a song of 4 latent frames"):
        a_splice([(0, 5)], 4 * HOP + 3).apply(torch.zeros(shape))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((torch.zeros(2, 2, HOP), ((0, 1),), 0, 1), "expected a waveform"),
        ((torch.zeros(1, 1, HOP), ((0, 1),), 0, 1), "expected a waveform"),
        ((torch.zeros(1, 2, HOP), (), 0, 1), "0 spans"),
        ((torch.zeros(1, 2, HOP), ((0, 1),), -1, 1), "fade -1"),
        ((torch.zeros(1, 2, 3 * HOP), ((0, 1),), 0, 2), "the sound has 5760"),
        ((torch.zeros(1, 2, HOP + 5), ((HOP, HOP + 5),), 0, 1), "within the 1920 decoded samples"),
        ((torch.zeros(1, 2, HOP), ((7, 7),), 0, 1), "got 7 to 7"),
    ],
)
def test_a_splice_that_cannot_be_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Splice(*values, "song")
