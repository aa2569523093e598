"""Fixtures of the whole suite: seeded generators, perturbed networks, tiny checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
# At the end: with ComfyUI's root before it, our `nodes/` never hides ComfyUI's `nodes.py`.
sys.path.append(str(ROOT))


@pytest.fixture(scope="session")
def rng():
    """rng(seed) -> a CPU generator."""
    return lambda seed: torch.Generator("cpu").manual_seed(seed)


@pytest.fixture(autouse=True)
def same_start():
    """Layers draw their first weights from torch's own generator: here they are the same in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def perturb():
    """perturb(module, seed, scale) adds scale · N(0, 1) to every parameter: no norm stays one, no table zero."""

    def add_noise(module, seed, scale=0.2):
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            for _, parameter in sorted(module.named_parameters()):
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
        return module.eval()

    return add_noise


@pytest.fixture(scope="session")
def relative_error():
    """relative_error(a, b) = max|a - b| / max|b| in float32."""
    return lambda a, b: float((a.float() - b.float()).abs().max() / b.float().abs().max())


@pytest.fixture(scope="session")
def write_tiny():
    """The writer of tiny checkpoints, imported when first needed."""
    from acestep_models.tiny import write_tiny

    return write_tiny


@pytest.fixture(scope="session")
def tiny_2b_split(tmp_path_factory, write_tiny):
    """A tiny 2B-like set in ComfyUI's split files."""
    return write_tiny(tmp_path_factory.mktemp("tiny_split"), layout="split", family="2b")


@pytest.fixture(scope="session")
def tiny_xl_split(tmp_path_factory, write_tiny):
    """A tiny XL-like set in ComfyUI's split files."""
    return write_tiny(tmp_path_factory.mktemp("tiny_xl"), layout="split", family="xl")


@pytest.fixture(scope="session")
def tiny_2b_diffusers(tmp_path_factory, write_tiny):
    """The weights of `tiny_2b_split` in diffusers folders."""
    return write_tiny(tmp_path_factory.mktemp("tiny_diffusers"), layout="diffusers", family="2b")
