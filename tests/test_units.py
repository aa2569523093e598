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


def test_every_millisecond_is_its_sample():
    """As whole numbers say it, with the steps of a product of bars too; a real rest is rounded down, below 0 too."""
    for rate in (48_000, 44_100, 8_000):
        for thousandths in range(-5_000, 600_001, 7):
            assert units.seconds_to_samples(thousandths / 1000, rate) == thousandths * rate // 1000
    assert units.seconds_to_samples(4.6) == 220_800 > int(4.6 * 48_000)
    assert [units.seconds_to_samples(0.001 + part / 48_000) for part in (-0.5, 0.5, 0.999)] == [47, 48, 48]
    assert units.seconds_to_samples(-1e-5) == -1
