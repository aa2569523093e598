"""Flow edit against its formula, step by step, on velocities that are no network."""

from itertools import pairwise

import pytest
import torch

from acestep_models.errors import ACEStepError
from acestep_models.sampling.flow_edit import FlowEdit, flow_edit
from acestep_models.sampling.guidance import Guide
from acestep_models.sampling.noise import Noise
from acestep_models.sampling.schedule import Schedule, flow_times

NOISE = Noise((5, 6))


def target(x, t):
    return torch.sin(x * t) + x


def original(x, t):
    return torch.cos(x) * t


def velocity(x, t, *, corrector=False):
    """Two halves with a law each, or the target alone."""
    if len(x) == 2:
        return target(x, t)
    return torch.cat([target(x[:2], t), original(x[2:], t)])


@pytest.mark.parametrize("averaging", [1, 3])
@pytest.mark.parametrize(("first", "last"), [(0, 6), (2, 6), (0, 4), (1, 3)])
def test_every_step_is_the_formula(rng, first, last, averaging):
    source = torch.randn(2, 64, 7, generator=rng(0))
    times, z = flow_times(6, 3.0), source.double()
    src = z
    for index, (t, t_prev) in enumerate(pairwise(times)):
        if index < first:
            continue
        draws = [NOISE.step(index * averaging + k, 7).double() for k in range(averaging)]
        if index < last:
            total = 0
            for noise in draws:
                zs = (1 - t) * src + t * noise
                total = total + target(z + zs - src, t) - original(zs, t)
            z = z + (t_prev - t) * total / averaging
        else:
            if index == last:
                z = z + (1 - t) * src + t * draws[0] - src
            z = z + (t_prev - t) * target(z, t)
    edit = FlowEdit(first, last - first, averaging, NOISE)
    found = flow_edit(velocity, source, Schedule(times[first:], 3.0), edit)
    torch.testing.assert_close(found.double(), z, rtol=1e-5, atol=1e-5)


def test_two_equal_wishes_leave_the_source_bit_by_bit(rng):
    source = torch.randn(2, 64, 7, generator=rng(0))
    edit = FlowEdit(0, 6, 2, NOISE)
    found = flow_edit(lambda x, t, corrector=False: torch.sin(x * t), source, Schedule(flow_times(6, 3.0), 3.0), edit)
    assert torch.equal(found, source)


def test_steps_are_told_and_their_music_is_what_is_there(rng):
    source, told = torch.randn(2, 64, 7, generator=rng(0)), []
    edit = FlowEdit(0, 2, 1, NOISE)
    end = flow_edit(velocity, source, Schedule(flow_times(4, 1.0), 1.0), edit, lambda *step: told.append(step))
    assert [done for done, _, _ in told] == [1, 2, 3, 4]
    assert all(torch.equal(music, x) for _, music, x in told[:2])
    assert torch.equal(told[-1][2], end)
    torch.testing.assert_close(told[-1][1], end)


def test_numbers_that_are_not_finite_name_the_step():
    edit = FlowEdit(0, 2, 1, Noise((1,)))
    with pytest.raises(ACEStepError, match=r"decoder \(DiT\), step 1 of 2"):
        flow_edit(lambda x, t: x / 0, torch.ones(1, 64, 2), Schedule((1.0, 0.5, 0.0), 1.0), edit)


@pytest.mark.parametrize("options", [{"kind": "apg"}, {"kind": "cfg", "ema": 0.2}, {"kind": "apg", "ema": 0.1}])
def test_a_guide_goes_on_with_the_first_items(rng, options):
    """The momentum of the target is its own: after the source has left, it is that of a guide of the target alone."""
    both, alone = (Guide(scale=5.0, **options) for _ in range(2))
    draws = [torch.randn(3, 4, 64, 9, generator=rng(k)) for k in range(3)]
    for step, (x, cond, null) in enumerate(draws):
        count = 4 if step < 2 else 2
        found = both.velocity(x[:count], 0.5, cond[:count], null[:count])
        expected = alone.velocity(x[:2], 0.5, cond[:2], null[:2])
        assert torch.equal(found[:2], expected), step
