"""The blocks of GGUF files on a CUDA card: the numbers of the CPU, bit for bit."""

from __future__ import annotations

import pytest
import torch

from acestep_models.loading.blocks import BLOCKS, unblock

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BLOCKS)
def test_numbers_are_those_of_the_cpu(kind, dtype, rng):
    block = BLOCKS[kind]
    stored = torch.randint(0, 100, (5000, block.row_bytes(2048)), generator=rng(1), dtype=torch.uint8)  # > one slice
    assert torch.equal(unblock(stored.cuda(), block, dtype).cpu(), unblock(stored, block, dtype))
