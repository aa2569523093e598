"""What is put back after a step, value by value (spec/audio.md §5.4)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from acestep_models.sampling.dcw import DCW
from acestep_models.sampling.keep import Injection, injected_steps
from acestep_models.sampling.loop import sample
from acestep_models.sampling.noise import Noise, song_noise
from acestep_models.sampling.schedule import Schedule, flow_times

FRAMES = 11
MASK = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0]).bool()


@pytest.fixture
def parts(rng):
    """Two starts, and what is kept of one song."""
    return torch.randn(2, 64, FRAMES, generator=rng(0)), torch.randn(1, 64, FRAMES, generator=rng(1))


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_the_kept_part_is_as_noisy_as_the_step_has_left_the_rest(parts, steps):
    """x = where(m, x, t_next · noise + (1 - t_next) · clean) after steps 0 to steps - 1, nothing after the others."""
    noise, clean = parts
    seen, times = [], flow_times(4, 3.0)
    velocity = lambda x, t: torch.sin(3 * x)  # noqa: E731
    injection = Injection(MASK[None, None], clean, noise, steps)
    found = sample(
        velocity,
        noise,
        Schedule(times, 3.0),
        Noise((0, 1)),
        on_step=lambda done, music, x: seen.append(x),
        post_step=injection,
    )
    x = noise
    for index, (t, after) in enumerate(pairwise(times)):
        x = x + (after - t) * torch.sin(3 * x)
        if index < steps:
            for frame in range(FRAMES):
                if not MASK[frame]:
                    x[:, :, frame] = after * noise[:, :, frame] + (1 - after) * clean[:, :, frame]
        torch.testing.assert_close(seen[index], x)
    assert torch.equal(found, seen[-1])
    assert torch.equal(found[:, :, ~MASK], clean[:, :, ~MASK].expand(2, -1, -1)) == (steps == 4)


def test_it_comes_after_every_correction(parts):
    noise, clean = parts
    calls = []

    def watch(index, t_next, x):
        calls.append((index, t_next, x.clone()))
        return x + 1

    schedule = Schedule(flow_times(3, 1.0), 1.0, dcw=DCW("double"))
    plain = sample(lambda x, t: x, noise, schedule, Noise((0, 1)))
    found = sample(lambda x, t: 0 * x, noise, Schedule((1.0, 0.5, 0.0), 1.0), Noise((0, 1)), post_step=watch)
    assert torch.equal(found, noise + 1 + 1) and [call[:2] for call in calls] == [(0, 0.5), (1, 0.0)]
    kept = sample(lambda x, t: x, noise, schedule, Noise((0, 1)), post_step=lambda i, t, x: calls.append(x) or x)
    assert torch.equal(kept, plain) and torch.equal(calls[-1], plain)


@pytest.mark.parametrize(
    ("share", "steps", "plain", "distilled"),
    [
        (0.0, 8, 0, 0),
        (0.5, 8, 4, 4),
        (0.5, 5, 2, 2),  # 2.5 to the even number
        (0.5, 7, 4, 4),  # 3.5 to the even number
        (0.25, 50, 12, 12),  # 12.5
        (0.75, 50, 38, 38),  # 37.5
        (0.95, 8, 8, 7),
        (1.0, 8, 8, 7),
        (1.0, 50, 50, 49),
        (1.0, 1, 1, 0),
    ],
)
def test_how_many_steps_put_back(share, steps, plain, distilled):
    assert injected_steps(share, steps, distilled=False) == plain
    assert injected_steps(share, steps, distilled=True) == distilled


def test_every_song_keeps_its_own_noise(parts):
    _, clean = parts
    noise = torch.cat([song_noise(seed, FRAMES) for seed in (3, 4)])
    found = Injection(MASK[None, None], clean, noise, 1)(0, 0.25, torch.zeros(2, 64, FRAMES))
    assert not found[:, :, MASK].any()
    for k in range(2):
        torch.testing.assert_close(found[k, :, ~MASK], 0.25 * noise[k, :, ~MASK] + 0.75 * clean[0, :, ~MASK])


class Copies(TorchDispatchMode):
    """Counts the tensors that are moved or cast."""

    count = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.count += call is torch.ops.aten._to_copy.default
        return call(*args, **(kwargs or {}))


def test_what_is_kept_is_moved_once_and_not_at_every_step(parts):
    """A run in float64 stands for one on a device: clean and noise are copied there before the first step's mixture."""
    noise, clean = parts
    injection, x = Injection(MASK[None, None], clean, noise, 5), torch.zeros(2, 64, FRAMES, dtype=torch.float64)
    with Copies() as copies:
        counts = [injection(index, 0.5, x) is None or copies.count for index in range(5)]
    assert counts == [2] * 5
