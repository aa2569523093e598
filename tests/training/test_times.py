"""Random numbers without state, and the times of each variant against their distributions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from acestep_models.tasks import VARIANTS
from acestep_models.training.noise import generator, seed_for
from acestep_models.training.times import KINDS, Times, condition_dropout_for, discrete_times, times_for

COUNT = 40_000
TURBO = [1.0, 0.954545, 0.9, 0.833333, 0.75, 0.642857, 0.5, 0.3]  # spec/lora.md §1.5


def options(**changes):
    return SimpleNamespace(
        **{"times": "auto", "shift": None, "mu": -0.4, "sigma": 1.0, "condition_dropout": None, **changes}
    )


def normal_cdf(x):
    return 0.5 * (1 + torch.erf(x / 2**0.5))


def logit_normal_cdf(t, mu=-0.4, sigma=1.0):
    return normal_cdf((torch.logit(t) - mu) / sigma)


def test_numbers_depend_on_seed_purpose_and_numbers_alone():
    draw = lambda *key: torch.rand(4, generator=generator(*key)).tolist()  # noqa: E731
    assert draw(1, "noise", 2, 3) == draw(1, "noise", 2, 3)
    keys = [
        (1, "noise", 2, 3),
        (2, "noise", 2, 3),
        (1, "time", 2, 3),
        (1, "noise", 3, 2),
        (1, "noise", 23),
        (1, "noise"),
    ]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    # on every machine: sha256("7/noise/17")[:8] >> 1
    assert seed_for(7, "noise", 17) == 3055724258265904927
    with pytest.raises(ValueError, match="expected one of init, order"):
        generator(0, "nonsense")


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_discrete_times_are_the_formula(shift):
    expected = [shift * (k / 8) / (1 + (shift - 1) * (k / 8)) for k in range(8, 0, -1)]
    assert discrete_times(shift).tolist() == pytest.approx(expected, abs=1e-7)
    if shift == 3:
        assert discrete_times(shift).tolist() == pytest.approx(TURBO, abs=1e-6)


def test_discrete_draws_are_those_eight_and_equally_often():
    drawn = Times("discrete", shift=3.0).draw(generator(0, "time", 1), COUNT)
    values, counts = drawn.unique(return_counts=True)
    assert torch.equal(values.flip(0), discrete_times(3.0))
    spread = (COUNT * (1 / 8) * (7 / 8)) ** 0.5
    assert float((counts - COUNT / 8).abs().max()) < 4 * spread


@pytest.mark.parametrize(
    ("times", "cdf"),
    [
        (Times("reference"), lambda t: logit_normal_cdf(t) ** 2),
        (Times("logit-normal"), logit_normal_cdf),
        (Times("logit-normal", mu=0.5, sigma=2.0), lambda t: logit_normal_cdf(t, 0.5, 2.0)),
        (Times("uniform"), lambda t: t),
        (Times("uniform", shift=3.0), lambda t: t / (3 - 2 * t)),  # the inverse of the shift
    ],
)
def test_continuous_draws_have_their_distribution(times, cdf):
    drawn = times.draw(generator(0, "time", 2), COUNT).sort().values
    assert drawn.dtype == torch.float32 and 0 < float(drawn[0]) and float(drawn[-1]) < 1
    steps = torch.arange(1, COUNT + 1) / COUNT
    assert float((cdf(drawn.double()) - steps).abs().max()) < 1.63 / COUNT**0.5  # Kolmogorov and Smirnov, 1 %


def test_the_median_of_the_reference_is_where_the_spec_has_it():
    drawn = Times("reference").draw(generator(0, "time", 3), COUNT)
    assert float(drawn.median()) == pytest.approx(0.54, abs=0.01)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("base", ("reference", 1.0, 0.15)),
        ("sft", ("reference", 1.0, 0.15)),
        ("turbo", ("discrete", 3.0, 0.0)),
        ("turbo-shift1", ("discrete", 1.0, 0.0)),
        ("turbo-shift3", ("discrete", 3.0, 0.0)),
        ("turbo-continuous", ("reference", 1.0, 0.15)),
    ],
)
def test_auto_is_what_the_variant_was_made_with(variant, expected):
    assert variant in VARIANTS
    times = times_for(options(), variant)
    assert (times.kind, times.shift, condition_dropout_for(options(), times)) == expected
    assert condition_dropout_for(options(condition_dropout=0.3), times) == 0.3


def test_what_is_asked_for_comes_first():
    assert times_for(options(times="discrete"), "turbo-continuous") == Times("discrete", shift=3.0)
    assert times_for(options(times="discrete", shift=2.0), "turbo") == Times("discrete", shift=2.0)
    assert times_for(options(times="uniform"), "turbo") == Times("uniform")
    assert times_for(options(times="reference", mu=0.0, sigma=0.5), "turbo") == Times("reference", 0.0, 0.5)
    with pytest.raises(ValueError, match=f"one of {', '.join(KINDS)}, got 'x'"):
        times_for(options(times="x"), "turbo")
    with pytest.raises(ValueError, match="variant: expected one of base"):
        times_for(options(), "x")
    with pytest.raises(ValueError, match="above 0"):
        Times("uniform", shift=0.0)


def test_the_grid_is_fixed():
    assert torch.equal(Times("discrete", shift=3.0).grid(8), discrete_times(3.0))
    assert Times("reference").grid(4).tolist() == [0.875, 0.625, 0.375, 0.125]


def test_conditions_are_dropped_as_often_as_asked():
    dropped = sum(float(torch.rand((), generator=generator(0, "drop", item))) < 0.15 for item in range(4000))
    assert abs(dropped - 600) < 3 * (4000 * 0.15 * 0.85) ** 0.5
