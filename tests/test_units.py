"""Seconds, frames, codes and samples agree exactly."""

import pytest

from acestep_models import units


def test_rates_follow_from_the_vae():
    assert (units.FRAME_RATE, units.CODE_RATE) == (25, 5)


def test_every_legal_length_is_exact():
    for tenths in range(100, 6001, 2):
        seconds = tenths / 10
        frames = units.seconds_to_frames(seconds)
        assert frames * 10 == 25 * tenths
        assert units.seconds_to_codes(seconds) * 10 == 5 * tenths
        assert units.frames_to_samples(frames) * 10 == 48_000 * tenths
        assert units.snap_seconds(seconds) == pytest.approx(seconds, abs=1e-12)
        assert units.frames_to_seconds(frames) == units.snap_seconds(seconds)


@pytest.mark.parametrize(("given", "snapped"), [(10.09, 10.0), (10.11, 10.2), (59.95, 60.0), (600, 600.0)])
def test_other_lengths_go_to_the_nearest(given, snapped):
    assert units.snap_seconds(given) == snapped
