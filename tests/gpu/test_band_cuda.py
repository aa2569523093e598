"""The banded attention on a card, where other kernels read its overlapping views."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from acestep_models.layers.band import sliding_band, sliding_mask
from acestep_models.ops import attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WINDOW, HEADS, KEYS, WIDTH = 128, 16, 8, 128


@pytest.mark.parametrize("length", [301, 1500, 7500])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_a_band_is_the_dense_mask_forward_and_backward(length, dtype, most, relative_error):
    generator = torch.Generator("cuda").manual_seed(1)

    def draw(heads):
        drawn = torch.randn(2, heads, length, WIDTH, generator=generator, device="cuda", dtype=dtype)
        return drawn.requires_grad_()

    q, k, v = draw(HEADS), draw(KEYS), draw(KEYS)
    mask = sliding_mask(length, WINDOW, "cuda")
    wide = [part.repeat_interleave(HEADS // KEYS, dim=1) for part in (k, v)]
    dense = F.scaled_dot_product_attention(q, *wide, attn_mask=mask)
    expected = torch.autograd.grad(dense.square().sum(), (q, k, v))
    band = sliding_band(length, WINDOW, HEADS // KEYS, q)
    found = band.attend(q, k, v, attention)
    assert relative_error(found, dense) < most
    for mine, theirs in zip(torch.autograd.grad(found.square().sum(), (q, k, v)), expected, strict=True):
        assert relative_error(mine, theirs) < most
