"""What the decoder sees beside the noise."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.context import span_mask, task_context


@pytest.mark.parametrize(
    ("spans", "mask"),
    [
        ((), [1, 1, 1, 1, 1]),
        (((0, 5),), [1, 1, 1, 1, 1]),
        (((2, 4),), [0, 0, 1, 1, 0]),
        (((0, 1),), [1, 0, 0, 0, 0]),
        (((4, 5),), [0, 0, 0, 0, 1]),
        (((0, 2), (3, 4)), [1, 1, 0, 1, 0]),
    ],
)
def test_source_is_kept_and_the_mask_is_one_in_the_spans(rng, spans, mask):
    source = torch.randn(1, 5, 64, generator=rng(0))
    before = source.clone()
    context = task_context(source, spans)
    assert context.shape == (1, 5, 128)
    assert torch.equal(context[..., :64], before) and torch.equal(source, before)
    assert torch.equal(context[..., 64:], torch.tensor(mask).float()[None, :, None].expand(1, 5, 64))
    assert span_mask(spans, 5).tolist() == [bool(value) for value in mask]


def test_what_is_made_anew_can_be_silence_to_the_decoder(rng):
    """The same frames of silence, not its first ones (spec/audio.md §5.2, repaint)."""
    source, silence = torch.randn(1, 5, 64, generator=rng(0)), torch.randn(1, 5, 64, generator=rng(1))
    context = task_context(source, ((0, 1), (3, 5)), silence)
    expected = torch.stack([silence[0, 0], source[0, 1], source[0, 2], silence[0, 3], silence[0, 4]])
    assert torch.equal(context[0, :, :64], expected)
    assert context[0, :, 64].tolist() == [1, 0, 0, 1, 1]
