"""What the decoder sees beside the noise: a source, and where it may write (spec/audio.md §2.3, §5.1, §5.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FrameSpan = tuple[int, int]  # the first latent frame, and one past the last


def task_context(source: Tensor, spans: Sequence[FrameSpan] = (), silence: Tensor | None = None) -> Tensor:
    """source [1, T, 64] -> what is shown of it, and a mask that is 1 where the decoder may write, else 0: [1, T, 128].

    The source is silence, the latents of a sound, or what the detokenizer makes of codes ("hints"). It may write in
    `spans` of frames, everywhere where there are none. The source is shown unchanged, or, given silence [1, T, 64],
    with the same frames of that in place of its own where it may write.
    """
    mask = span_mask(spans, source.shape[1])[None, :, None]  # [1, T, 1]
    shown = source if silence is None else torch.where(mask, silence.to(source), source)
    return torch.cat([shown, mask.to(source).expand_as(source)], dim=-1)


def span_mask(spans: Sequence[FrameSpan], frames: int) -> Tensor:
    """[frames], True within the spans; all True where there are none."""
    mask = torch.zeros(frames, dtype=torch.bool)
    for start, end in spans or ((0, frames),):
        mask[start:end] = True
    return mask
