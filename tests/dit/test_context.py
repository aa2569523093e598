"""What the decoder sees beside the noise."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.context import task_context


@pytest.mark.parametrize(
    ("span", "mask"),
    [
        (None, [1, 1, 1, 1, 1]),
        ((0, 5), [1, 1, 1, 1, 1]),
        ((2, 4), [0, 0, 1, 1, 0]),
        ((0, 1), [1, 0, 0, 0, 0]),
        ((4, 5), [0, 0, 0, 0, 1]),
    ],
)
def test_source_is_kept_and_the_mask_is_one_in_the_span(rng, span, mask):
    source = torch.randn(1, 5, 64, generator=rng(0))
    before = source.clone()
    context = task_context(source, span)
    assert context.shape == (1, 5, 128)
    assert torch.equal(context[..., :64], before) and torch.equal(source, before)
    assert torch.equal(context[..., 64:], torch.tensor(mask).float()[None, :, None].expand(1, 5, 64))
