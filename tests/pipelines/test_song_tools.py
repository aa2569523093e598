"""Cut, loop and join: exact lengths, both kinds in step, and what is refused."""

from __future__ import annotations

import random

import pytest
import torch

from acestep_models.pipelines.song_tools import Recording, Seam, cut, join_songs, loop
from acestep_models.spans import Span

HARD = Seam(0.0)


def clock(seconds, rate, channels=2, songs=1):
    """A sound whose sample n is n, so that every sample says where it was."""
    wave = torch.arange(round(seconds * rate), dtype=torch.float32)
    return wave.expand(songs, channels, -1)


def frames(count, songs=1):
    """Latents whose frame n is n."""
    return torch.arange(count, dtype=torch.float32).expand(songs, 64, -1)


def test_sound_is_cut_where_repaint_cuts_it_and_latents_at_the_nearest_frame():
    """1.00002 s are 48 000.96 samples; 1.03 s are 25.75 frames."""
    alone = cut(Recording(clock(10, 48_000)), (Span(1.00002, 4.6),), seam=HARD)
    assert alone.wave[0, 0, 0] == 48_000 and alone.wave[0, 0, -1] == 220_800 - 1
    latents = torch.arange(250.0).expand(1, 64, 250)
    pair = cut(Recording(clock(10, 48_000), 48_000, latents), (Span(1.03, 4.6),), seam=HARD)
    assert pair.latents[0, 0].tolist() == list(range(26, 115)) and pair.wave[0, 0, 0] == 26 * 1920


def test_sound_alone_is_cut_to_the_sample():
    made = cut(Recording(clock(10, 44_100), 44_100), (Span(1.00001, 2.5), Span(0.0, 0.5)), seam=HARD)
    assert made.wave is not None and made.latents is None and made.rate == 44_100
    wanted = torch.cat([torch.arange(44_100, 110_250), torch.arange(22_050)]).float()
    assert torch.equal(made.wave, wanted.expand(1, 2, -1))


def test_a_pair_is_cut_on_the_grid_and_stays_a_pair_in_200_random_cases():
    draw = random.Random(11)
    for _ in range(200):
        rate, count = draw.choice([48_000, 44_100, 32_000, 22_050, 8_000, 11_111]), draw.randint(25, 250)
        samples = count * rate // 25 + draw.randint(-rate // 25 + 2, rate // 25 - 2)
        song = Recording(torch.arange(float(samples)).expand(1, 1, -1), rate, frames(count))
        whole = min(count, samples * 25 // rate)
        first, last = sorted(draw.sample(range(whole + 1), 2))
        jitter = draw.uniform(-0.019, 0.019)
        made = cut(song, (Span(first / 25 + jitter, last / 25 + jitter), Span(0, 0.4)), seam=HARD)
        kept = [*range(first, last), *range(10)]
        assert made.latents[0, 0].tolist() == kept
        edges = [int(place * rate / 25 + 0.5) for place in (first, last, 0, 10)]
        wanted = torch.cat([torch.arange(*edges[:2]), torch.arange(*edges[2:])]).float()
        assert torch.equal(made.wave[0, 0], wanted)


def test_removed_spans_may_overlap_and_the_rest_keeps_its_order():
    made = cut(Recording(latents=frames(100)), (Span(2, 3), Span(1, 2.4), Span(0, 0.4)), keep=False, seam=HARD)
    assert made.latents[0, 0].tolist() == [*range(10, 25), *range(75, 100)]


@pytest.mark.parametrize("curve", ["linear", "equal power"])
def test_crossfades_leave_the_length_and_meet_at_the_same_time(curve):
    song = Recording(clock(10, 48_000), 48_000, frames(250))
    made = loop(song, Span(2.0, 4.0), 5, Seam(0.2, curve))
    assert made.latents.shape[-1] == 250 and made.wave.shape[-1] == 480_000
    plain = loop(song, Span(2.0, 4.0), 5, HARD)
    changed = (made.latents != plain.latents)[0, 0]
    heard = (made.wave != plain.wave)[0, 0]
    for turn in range(1, 5):  # 0.2 s are 5 frames: 2 before the seam and 3 behind it; 4800 samples on either side
        assert (
            changed[turn * 50 - 2 : turn * 50 + 3].all() and heard[turn * 96_000 - 4_799 : turn * 96_000 + 4_799].all()
        )
    assert changed.sum() == 20 and heard.sum() <= 4 * 9_600


def test_latents_are_joined_linearly_whatever_the_curve():
    """And the sound along the curve: 5 frames of a crossfade, k of which the second song has k / 6."""
    one, two = Recording(clock(2, 8_000), 8_000, frames(50)), Recording(clock(2, 8_000) + 9, 8_000, frames(50) + 100)
    for make in (lambda seam: join_songs(one, two, seam), lambda seam: loop(one, Span(0.4, 1.0), 3, seam)):
        straight, curved = make(Seam(0.2)), make(Seam(0.2, "equal power"))
        assert torch.equal(straight.latents, curved.latents) and not torch.equal(straight.wave, curved.wave)
    joined = join_songs(one, two, Seam(0.2, "equal power")).latents[0, 0, 45:50]
    wanted = [(45 + k) * (1 - (k + 1) / 6) + (100 + k) * (k + 1) / 6 for k in range(5)]
    assert joined.tolist() == pytest.approx(wanted, rel=1e-6)


def test_a_joined_pair_stays_a_pair():
    first = Recording(clock(4.03, 48_000), 48_000, frames(100))  # with a tail that no frame holds
    second = Recording(clock(3, 48_000), 48_000, frames(75))
    made = join_songs(first, second, Seam(1.0))
    assert made.latents.shape[-1] == 150 and made.wave.shape[-1] == 150 * 1920
    assert torch.equal(made.wave[..., 4 * 48_000 :], second.wave[..., 48_000:])
    assert torch.equal(made.latents[..., 100:], second.latents[..., 25:])


def test_different_sounds_become_48_khz_stereo_and_equal_ones_stay():
    mono = Recording(clock(2, 22_050, channels=1), 22_050)
    made = join_songs(mono, Recording(clock(1, 48_000), 48_000), HARD)
    assert (made.rate, made.wave.shape) == (48_000, (1, 2, 3 * 48_000))
    assert torch.equal(made.wave[..., 2 * 48_000 :], clock(1, 48_000))
    made = join_songs(mono, mono, HARD)
    assert (made.rate, made.wave.shape) == (22_050, (1, 1, 4 * 22_050))


def test_one_song_goes_with_each_of_a_batch():
    made = join_songs(Recording(latents=frames(30, songs=3)), Recording(latents=frames(20)), HARD)
    assert made.latents.shape == (3, 64, 50)


@pytest.mark.parametrize("spans", [(Span(9, 11),), (Span(-1, 2),), (Span(12, 13),)])
def test_spans_beside_the_song_are_refused(spans):
    with pytest.raises(ValueError, match="is not within the song, which goes from 0 to 10 s"):
        cut(Recording(latents=frames(250)), spans)


def test_what_cannot_be_is_refused():
    song = Recording(latents=frames(250))
    with pytest.raises(ValueError, match="expected at least one of both"):
        Recording()
    with pytest.raises(ValueError, match="latent: 250 frames are 10 s, the audio has 11 s"):
        Recording(clock(11, 8_000), 8_000, frames(250))
    with pytest.raises(ValueError, match="shorter than the 0.04 s"):
        cut(song, (Span(1.0, 1.01),))
    with pytest.raises(ValueError, match="nothing would be left"):
        cut(song, (Span(0, 6), Span(5, 10)), keep=False)
    with pytest.raises(ValueError, match="expected at least one span"):
        cut(song, ())
    for times in (1, 65):
        with pytest.raises(ValueError, match=f"times: expected 2 to 64, got {times}"):
            loop(song, Span(0, 1), times)
    with pytest.raises(ValueError, match="at most 3600 s"):
        loop(Recording(latents=frames(15_000)), Span(0, 600), 7)
    with pytest.raises(ValueError, match="crossfade: expected 0 seconds or more"):
        Seam(float("nan"))


def test_a_crossfade_is_as_long_as_the_grid_lets_it():
    assert Seam(0.5).made(Recording(latents=frames(50))) == 0.52  # 12.5 frames
    assert Seam(0.5).made(Recording(clock(2, 8_000), 8_000)) == 0.5


def test_songs_that_do_not_go_together_are_refused():
    sound, rows = Recording(clock(2, 8_000), 8_000), Recording(latents=frames(50))
    with pytest.raises(ValueError, match="audio_2: expected, because audio_1 is connected"):
        join_songs(sound, rows)
    with pytest.raises(ValueError, match="latent_1: expected, because latent_2 is connected"):
        join_songs(sound, Recording(clock(2, 8_000), 8_000, frames(50)))
    with pytest.raises(ValueError, match="got 2 and 3"):
        join_songs(Recording(latents=frames(50, 2)), Recording(latents=frames(50, 3)))
    with pytest.raises(ValueError, match="crossfade: 3 s is longer than one of the songs, which have 2 and 2 s"):
        join_songs(rows, rows, Seam(3.0))
    with pytest.raises(ValueError, match="together over 3600 s"):
        join_songs(Recording(latents=frames(60_000)), Recording(latents=frames(60_000)))
