"""Times against the tables of spec/audio.md §6.2."""

import pytest
import torch

from acestep_models.sampling.dcw import DCW
from acestep_models.sampling.schedule import (
    SamplingOptions,
    Schedule,
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


@pytest.mark.parametrize("name", VARIANTS)
def test_auto_guides_what_has_no_guidance_built_in(name):
    schedule = resolve(SamplingOptions(), VARIANTS[name], VARIANTS[name].shift)
    assert (schedule.guidance, schedule.scale) == (("apg", 7.0) if name in ("base", "sft") else ("none", 1.0))
    assert schedule.guided == (name in ("base", "sft"))
    assert schedule.notes == ()


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.distilled])
@pytest.mark.parametrize("options", [{"scale": 7.0}, {"guidance": "cfg"}, {"guidance": "adg", "scale": 3.0}])
def test_turbo_is_never_guided_and_says_so(name, options):
    schedule = resolve(SamplingOptions(**options), VARIANTS[name], VARIANTS[name].shift)
    assert (schedule.guidance, schedule.scale) == ("none", 1.0)
    assert [note[:20] for note in schedule.notes] == ["guidance is not used"]


@pytest.mark.parametrize("options", [{"guidance": "none"}, {"scale": 1.0}])
def test_turbo_without_guidance_says_nothing(options):
    assert resolve(SamplingOptions(**options), TURBO, 3.0).notes == ()


@pytest.mark.parametrize(
    "options", [{"guidance": "none", "scale": 5.0}, {"scale": 1.0}, {"guidance": "cfg", "scale": 1}]
)
def test_base_without_guidance_says_so(options):
    schedule = resolve(SamplingOptions(**options), BASE, 1.0)
    assert (schedule.guidance, schedule.scale) == ("none", 1.0)
    assert schedule.notes == ("made without guidance; this variant is used to 7",)


def test_guidance_of_the_users_choice():
    options = SamplingOptions(
        guidance="adg", scale=4.0, interval=(0.1, 0.8), clamp=2.0, ema=0.1, dcw=DCW("low"), solver="heun"
    )
    schedule = resolve(options, BASE, 1.0)
    assert (schedule.guidance, schedule.scale, schedule.interval) == ("adg", 4.0, (0.1, 0.8))
    assert (schedule.clamp, schedule.ema, schedule.dcw, schedule.solver) == (2.0, 0.1, DCW("low"), "heun")
    guide = schedule.guide()
    assert guide is not schedule.guide() and not guide.needs_null(0.9) and guide.needs_null(0.8)
    x, v = torch.ones(1, 64, 2), torch.full((1, 64, 2), 4.0)
    assert [float(guide.velocity(x, 1.0, part).max()) for part in (v, v / 4)] == pytest.approx([2.0, 0.9 * 1 + 0.1 * 2])


def test_few_steps_of_base_are_noted():
    note = "8 steps are few; this variant is used to 50"
    assert resolve(SamplingOptions(steps=8), BASE, 1.0).notes == (note,)
    assert resolve(SamplingOptions(times=trained_times()[:8]), BASE, 1.0).notes == (note,)
    assert resolve(SamplingOptions(steps=20), BASE, 1.0).notes == ()


@pytest.mark.parametrize(
    ("name", "shift", "made_for"),
    [
        ("base", 0.9, "1 to 5"),
        ("sft", 5.1, "1 to 5"),
        ("turbo", 6.0, "1 to 5"),
        ("turbo-continuous", 0.5, "1 to 5"),
        ("turbo-shift1", 3.0, "1"),
        ("turbo-shift3", 1.0, "3"),
    ],
)
def test_a_shift_the_variant_was_not_made_for_is_noted(name, shift, made_for):
    """Whether the user asked for it or the model carries it."""
    note = f"shift {shift:g}; this variant was made for {made_for}"
    assert resolve(SamplingOptions(shift=shift), VARIANTS[name], 3.0).notes == (note,)
    assert resolve(SamplingOptions(), VARIANTS[name], shift).notes == (note,)


@pytest.mark.parametrize("shift", [1.0, 1.5, 5.0])
def test_shifts_that_variants_take_are_not_noted(shift):
    for variant in (BASE, TURBO, VARIANTS["turbo-continuous"]):
        assert resolve(SamplingOptions(), variant, shift).notes == ()


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
        ({"guidance": "strong"}, "one of auto, none, apg, cfg, adg, adg_w_norm, adg_wo_clip, got 'strong'"),
        ({"scale": 0.5}, "got 0.5"),
        ({"scale": 101.0}, "got 101"),
        ({"scale": float("nan")}, "got nan"),
        ({"interval": (0.6, 0.5)}, "got 0.6 to 0.5"),
        ({"interval": (0.0, 1.1)}, "got 0 to 1.1"),
        ({"interval": (float("nan"), 1.0)}, "got nan to 1"),
        ({"clamp": -1.0}, "got -1"),
        ({"clamp": float("inf")}, "got inf"),
        ({"ema": 1.0}, "got 1"),
        ({"ema": float("nan")}, "got nan"),
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


@pytest.mark.parametrize(
    ("level", "first"),
    [(1.0, 0), (0.9, 0), (0.8, 1), (0.625, 1), (0.624, 2), (0.5, 2), (0.3, 3), (0.1, 3), (0.0, 3)],
)
def test_a_schedule_starts_at_its_nearest_time(level, first):
    """The first of two equally near; at level 0 one step is left, for the end itself begins none."""
    times = (1.0, 0.75, 0.5, 0.25, 0.0)
    schedule = Schedule(times, 1.0, "heun", ("a note",), "apg", 7.0)
    assert schedule.starting(level) == Schedule(times[first:], 1.0, "heun", ("a note",), "apg", 7.0)
