"""The plain runtime and the guard that every stage ends with."""

import pytest
import torch

from acestep_models.errors import ACEStepError, Cancelled, check_finite
from acestep_models.runtime import Handle, PlainRuntime
from acestep_models.tasks import VARIANTS, variant_named


def test_progress_keeps_the_last_pair():
    runtime = PlainRuntime()
    assert runtime.last_progress is None
    runtime.progress(1, 4)
    runtime.progress(2, 4)
    assert runtime.last_progress == (2, 4)


def test_cancel_raises_once_it_is_set():
    runtime = PlainRuntime()
    assert runtime.check_cancelled() is None
    runtime.cancel = True
    with pytest.raises(Cancelled, match="cancelled"):
        runtime.check_cancelled()


def test_a_network_is_placed_on_the_device():
    runtime, layer = PlainRuntime("meta"), torch.nn.Linear(2, 2)
    handle = Handle(layer, torch.float32)
    assert runtime.place(handle) is layer
    assert layer.weight.device == runtime.device(handle) == torch.device("meta")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_names_the_stage(bad):
    with pytest.raises(ACEStepError, match=r"^VAE decode: 1 of 4 values are not finite numbers.*fp32"):
        check_finite("VAE decode", torch.tensor([0.0, 1.0, bad, 2.0]))


def test_what_is_finite_passes_unchanged():
    values = torch.tensor([0.0, 1e30])
    assert check_finite("x", values) is values


def test_variants_are_found_by_name():
    assert variant_named("turbo") is VARIANTS["turbo"]
    with pytest.raises(ValueError, match="expected one of base, sft, turbo.*got 'fast'"):
        variant_named("fast")
