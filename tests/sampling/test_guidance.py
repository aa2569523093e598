"""Guidance against diffusers where it has it, and against the formulas of spec/audio.md §6.4 and §6.5 where not."""

import math

import numpy as np
import pytest
import torch

from acestep_models.sampling.guidance import (
    APG,
    GUIDANCE,
    Guide,
    adg,
    adg_w_norm,
    adg_wo_clip,
    cfg,
    clamp_velocity,
)


def tensors(rng, count, seed=0, shape=(2, 64, 31)):
    """`count` tensors [2, 64, 31]."""
    generator = rng(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("scale", [1.0, 1.5, 7.0, 20.0])
@pytest.mark.parametrize("size", [0.05, 1.0, 30.0])
def test_apg_equals_diffusers_over_a_run(rng, relative_error, scale, size):
    """Sizes below, about and above the threshold; the tensors of diffusers are [B, T, 64]."""
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    ours, buffer = APG(), MomentumBuffer(momentum=-0.75)
    for step in range(5):
        x, v_cond, difference = tensors(rng, 3, step)
        v_null = v_cond + size * difference
        expected = normalized_guidance(
            v_cond.transpose(1, 2),
            v_null.transpose(1, 2),
            scale - 1.0,
            buffer,
            eta=0.0,
            norm_threshold=2.5,
            use_original_formulation=True,
            norm_dim=(1,),
        )
        assert relative_error(ours(x, 0.5, v_cond, v_null, scale).transpose(1, 2), expected) < 1e-6


def test_cfg_equals_diffusers(rng, relative_error):
    from diffusers.guiders import ClassifierFreeGuidance

    x, v_cond, v_null = tensors(rng, 3)
    expected = ClassifierFreeGuidance(guidance_scale=6.5).forward(v_cond, v_null).pred
    assert relative_error(cfg(x, 0.4, v_cond, v_null, 6.5), expected) < 1e-6


def turned_frame(cond, null, weight, most):
    """The turned estimate of one frame [64], by the formula, in float64."""
    cosine = cond @ null / math.sqrt((cond @ cond) * (null @ null))
    angle = math.acos(min(max(cosine, -1 + 1e-6), 1 - 1e-6))
    turn = weight * angle if most is None else min(weight * angle, most)
    difference = cond - null
    away = difference - null * (difference @ null) / (null @ null + 1e-8)
    return math.cos(turn) * cond + away * (math.sin(turn) / math.sin(angle) if math.sin(angle) > 1e-3 else weight)


def turned(x, t, v_cond, v_null, scale, most, keep_norm=False):
    """ADG of tensors [B, 64, T], item by item and frame by frame."""
    weight = max(scale - 1, 0) + 1e-3
    x, v_cond, v_null = (part.double().numpy() for part in (x, v_cond, v_null))
    cond, null, found = x - t * v_cond, x - t * v_null, np.empty_like(x)
    for item in range(x.shape[0]):
        for frame in range(x.shape[2]):
            found[item, :, frame] = turned_frame(cond[item, :, frame], null[item, :, frame], weight, most)
    if keep_norm:
        found *= np.sqrt((cond**2).sum(2, keepdims=True) / (found**2).sum(2, keepdims=True))
    return torch.from_numpy((x - found) / t)


ANGLES = {
    "adg": (adg, 3.14 / 6, False),
    "adg_w_norm": (adg_w_norm, 3.14 / 3, True),
    "adg_wo_clip": (adg_wo_clip, None, False),
}


@pytest.mark.parametrize("kind", ANGLES)
@pytest.mark.parametrize("scale", [1.0, 3.0, 7.0])
@pytest.mark.parametrize(("t", "size"), [(0.9, 1.0), (0.05, 0.1), (0.5, 1e-4)])
def test_adg_equals_the_formula(rng, relative_error, kind, scale, t, size):
    """Wide angles, narrow ones, and estimates that are nearly parallel."""
    guidance, most, keep_norm = ANGLES[kind]
    x, v_cond, difference = tensors(rng, 3, 5)
    v_null = v_cond + size * difference
    found = guidance(x, t, v_cond, v_null, scale)
    assert found.dtype == torch.float32
    assert relative_error(found, turned(x, t, v_cond, v_null, scale, most, keep_norm)) < 1e-5


def test_adg_at_time_zero_is_cfg(rng):
    x, v_cond, v_null = tensors(rng, 3)
    for guidance, _, _ in ANGLES.values():
        assert torch.equal(guidance(x, 0.0, v_cond, v_null, 4.0), cfg(x, 0.0, v_cond, v_null, 4.0))


@pytest.mark.parametrize("kind", GUIDANCE)
def test_equal_velocities_are_left_alone(rng, kind):
    x, v = tensors(rng, 2)
    angles = kind.startswith("adg")
    found = GUIDANCE[kind]()(x, 0.5, v, v, 7.0)
    # The formula of adg turns by 0.01 even here: its clamp keeps every angle above acos(1 - 1e-6) = 0.0014.
    torch.testing.assert_close(found, v, rtol=0, atol=1e-3 if angles else 1e-6)


@pytest.mark.parametrize("kind", GUIDANCE)
def test_item_k_is_guided_as_if_alone(rng, kind):
    together, alone = GUIDANCE[kind](), [GUIDANCE[kind]() for _ in range(2)]
    for step in range(3):
        x, v_cond, v_null = tensors(rng, 3, step)
        both = together(x, 0.5, v_cond, v_null, 7.0)
        for k in range(2):
            one = alone[k](x[k : k + 1], 0.5, v_cond[k : k + 1], v_null[k : k + 1], 7.0)
            torch.testing.assert_close(both[k : k + 1], one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 1.5, 3.0])
def test_clamp_is_the_formula(rng, relative_error, threshold):
    x, v = tensors(rng, 2)
    v[1] *= 10
    expected = torch.stack([v[k] * min(1.0, threshold * float(x[k].norm()) / float(v[k].norm())) for k in range(2)])
    assert relative_error(clamp_velocity(v, x, threshold), expected) < 1e-6


def test_smoothing_blends_with_the_smoothed_velocity_before(rng):
    guide, before = Guide("none", 1.0, ema=0.2), None
    for step in range(4):
        x, v = tensors(rng, 2, step)
        before = v if before is None else 0.8 * v + 0.2 * before
        torch.testing.assert_close(guide.velocity(x, 0.5, v), before)


def test_a_corrector_is_smoothed_against_its_step_and_leaves_their_mean(rng):
    guide = Guide("none", 1.0, ema=0.1)
    x, first, second, third = tensors(rng, 4)
    assert torch.equal(guide.velocity(x, 0.8, first), first)
    ahead = guide.velocity(x, 0.7, second, corrector=True)
    torch.testing.assert_close(ahead, 0.9 * second + 0.1 * first)
    torch.testing.assert_close(guide.velocity(x, 0.7, third), 0.9 * third + 0.1 * (first + ahead) / 2)


def test_guidance_then_clamp_then_smoothing(rng):
    guide = Guide("cfg", 5.0, clamp=1.5, ema=0.3)
    x, v_cond, v_null, w_cond, w_null = tensors(rng, 5)
    first = clamp_velocity(cfg(x, 0.9, v_cond, v_null, 5.0), x, 1.5)
    assert torch.equal(guide.velocity(x, 0.9, v_cond, v_null), first)
    second = clamp_velocity(cfg(x, 0.8, w_cond, w_null, 5.0), x, 1.5)
    torch.testing.assert_close(guide.velocity(x, 0.8, w_cond, w_null), 0.7 * second + 0.3 * first)


def test_the_corrector_of_apg_is_cfg_and_leaves_the_momentum(rng):
    guide, alone = Guide("apg", 7.0), APG()
    for step in range(3):
        x, v_cond, v_null = tensors(rng, 3, step)
        assert torch.equal(guide.velocity(x, 0.9, v_cond, v_null), alone(x, 0.9, v_cond, v_null, 7.0))
        ahead = guide.velocity(x, 0.8, v_cond, v_null, corrector=True)
        assert torch.equal(ahead, cfg(x, 0.8, v_cond, v_null, 7.0))


def test_the_corrector_of_adg_is_adg(rng):
    x, v_cond, v_null = tensors(rng, 3)
    ahead = Guide("adg", 7.0).velocity(x, 0.8, v_cond, v_null, corrector=True)
    assert torch.equal(ahead, adg(x, 0.8, v_cond, v_null, 7.0))


def test_the_interval_is_on_t_and_has_both_ends():
    guide = Guide("apg", 7.0, interval=(0.3, 0.9))
    assert [t for t in (1.0, 0.91, 0.9, 0.5, 0.3, 0.29, 0.1) if guide.needs_null(t)] == [0.9, 0.5, 0.3]
    # As the host carries them.
    assert all(guide.needs_null(float(torch.tensor(t, dtype=torch.float32))) for t in (0.3, 0.9))
    assert not any(Guide("none", 1.0).needs_null(t) for t in (1.0, 0.5, 0.1))


def test_outside_the_interval_the_momentum_stands_still(rng):
    guide, alone = Guide("apg", 7.0, interval=(0.0, 0.5)), APG()
    for t in (0.9, 0.4, 0.6, 0.3):
        x, v_cond, v_null = tensors(rng, 3, int(10 * t))
        expected = alone(x, t, v_cond, v_null, 7.0) if t <= 0.5 else v_cond
        assert torch.equal(guide.velocity(x, t, v_cond, v_null), expected)


def test_a_missing_unconditioned_velocity_is_an_error(rng):
    x, v = tensors(rng, 2)
    with pytest.raises(ValueError, match=r"guidance at t = 0.5 needs the velocity without condition"):
        Guide("cfg", 7.0).velocity(x, 0.5, v)
