"""Times against the tables of spec/audio.md §6.2."""

import pytest
import torch

from acestep_models.sampling.schedule import (
    SamplingOptions,
    flow_times,
    parse_times,
    resolve,
    snap_times,
    trained_times,
)
from acestep_models.tasks import VARIANTS

TABLES = {
    1.0: (1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125),
    2.0: (1, 0.933333, 0.857143, 0.769231, 0.666667, 0.545455, 0.4, 0.222222),
    3.0: (1, 0.954545, 0.9, 0.833333, 0.75, 0.642857, 0.5, 0.3),
}
TURBO, BASE = VARIANTS["turbo"], VARIANTS["base"]


@pytest.mark.parametrize("shift", TABLES)
def test_eight_steps_are_the_turbo_tables(shift):
    assert flow_times(8, shift) == pytest.approx((*TABLES[shift], 0.0), abs=1e-6)


@pytest.mark.parametrize("shift", [0.5, 1.5, 4.7])
@pytest.mark.parametrize("steps", [1, 7, 50, 200])
def test_any_shift_follows_the_formula(steps, shift):
    linear = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    bent = shift * linear / (1 + (shift - 1) * linear)
    assert flow_times(steps, shift) == pytest.approx(bent.tolist(), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "steps", "shift"),
    [
        ("turbo", 8, 3.0),
        ("turbo-shift1", 8, 1.0),
        ("turbo-shift3", 8, 3.0),
        ("turbo-continuous", 8, 3.0),
        ("base", 50, 1.0),
        ("sft", 50, 1.0),
    ],
)
def test_auto_is_what_the_variant_was_trained_with(name, steps, shift):
    variant = VARIANTS[name]
    schedule = resolve(SamplingOptions(), variant, variant.shift)
    assert (schedule.steps, schedule.shift) == (steps, shift)
    assert schedule.times == flow_times(steps, shift)


def test_the_options_win_over_the_model_and_the_model_over_the_variant():
    assert resolve(SamplingOptions(shift=2.0), TURBO, 3.0).times == flow_times(8, 2.0)
    assert resolve(SamplingOptions(), TURBO, 1.5).times == flow_times(8, 1.5)


def test_turbo_snaps_explicit_times_to_the_twenty_trained_ones():
    assert len(trained_times()) == 20
    schedule = resolve(SamplingOptions(times=(0.97, 0.76, 0.615, 0.5, 0.395, 0.28, 0.18, 0.085, 0.0)), TURBO, 3.0)
    assert schedule.times == pytest.approx((0.954545, 0.769231, 0.625, 0.5, 0.4, 0.3, 0.222222, 0.125, 0.0), abs=1e-6)
    assert "moved to the trained ones" in schedule.notes[0]


def test_times_that_snap_together_become_one_step():
    assert snap_times((0.76, 0.74, 0.5)) == pytest.approx((0.769231, 0.75, 0.5), abs=1e-6)
    assert snap_times((0.501, 0.5)) == (0.5,)


def test_base_and_continuous_take_explicit_times_as_they_are():
    options = SamplingOptions(times=(0.97, 0.4, 0.0))
    for name in ("base", "sft", "turbo-continuous"):
        assert resolve(options, VARIANTS[name], 1.0).times == (0.97, 0.4, 0.0)


def test_more_steps_than_turbo_knows_are_allowed_and_noted():
    assert resolve(SamplingOptions(steps=21), TURBO, 3.0).notes == (
        "21 steps are more than the 20 that a turbo decoder was made for",
    )
    assert resolve(SamplingOptions(steps=20), TURBO, 3.0).notes == ()
    assert resolve(SamplingOptions(steps=100), BASE, 1.0).notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "got 0"),
        ({"steps": 201}, "got 201"),
        ({"shift": 0.0}, "got 0"),
        ({"shift": float("nan")}, "got nan"),
        ({"solver": "magic"}, "got 'magic'"),
        ({"times": (0.0,)}, "got 0"),
        ({"times": (0.5, 0.5)}, "got 0.5 then 0.5"),
        ({"times": (1.2, 0.5)}, "got 1.2"),
        ({"times": (0.5, float("nan"))}, "got nan"),
    ],
)
def test_illegal_options_name_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)


def test_too_many_explicit_times_for_turbo():
    with pytest.raises(ValueError, match="at most 20, got 21"):
        resolve(SamplingOptions(times=tuple(1 - i / 30 for i in range(21))), TURBO, 3.0)


def test_times_are_read_from_text():
    assert parse_times(" 0.9, 0.5 0.1,0 ") == (0.9, 0.5, 0.1, 0.0)
    assert parse_times("") is None
    with pytest.raises(ValueError, match="got '0.9; x'"):
        parse_times("0.9; x")
