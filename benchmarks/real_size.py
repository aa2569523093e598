"""Networks of the real sizes with cheap random weights in memory, for measuring time and room without a download.

    from real_size import random_parts
    decoder = random_parts("2b", torch.bfloat16, parts=("decoder",))["decoder"]

Every tensor repeats one block of random numbers, scaled by its fan-in, so values stay of order one and filling
2.4 G parameters takes seconds. Run as a script, it builds the parts that are named and prints size and time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))

from acestep_models.dit.config import XL, DiTConfig
from acestep_models.loading.build import NETWORKS
from acestep_models.loading.keymaps import DIT_PARTS
from acestep_models.qwen3.model import LM_06B, LM_4B, LM_17B, TEXT_ENCODER
from acestep_models.vae.config import OobleckConfig

BLOCK = 1_000_003  # prime, so that no two rows of a weight are equal
FAMILIES = {"2b": DiTConfig(is_turbo=True, model_version="turbo"), "xl": XL}
OTHERS = {"vae": OobleckConfig(), "text_encoder": TEXT_ENCODER}
PLANNERS = {"lm_06b": LM_06B, "lm_17b": LM_17B, "lm_4b": LM_4B}
PARTS = (*DIT_PARTS, *OTHERS)


def random_parts(
    family: str, dtype: torch.dtype = torch.bfloat16, parts: Sequence[str] = PARTS, seed: int = 0
) -> dict[str, nn.Module]:
    """Part -> network of the real size on the CPU, in eval mode, without gradients.

    `parts` are those of a checkpoint (decoder, condition, tokenizer, detokenizer, vae, text_encoder) or planners
    (lm_06b, lm_17b, lm_4b).
    """
    configs = {**dict.fromkeys(DIT_PARTS, FAMILIES[family]), **OTHERS, **PLANNERS}
    block = torch.randn(BLOCK, generator=torch.Generator("cpu").manual_seed(seed))
    return {part: _filled(part, configs[part], dtype, block) for part in parts}


def _filled(part: str, config: object, dtype: torch.dtype, block: Tensor) -> nn.Module:
    network = NETWORKS["lm" if part in PLANNERS else part]
    module: nn.Module = network(config, device="meta", dtype=dtype)
    state = {key: _tensor(key, value, block.to(dtype)) for key, value in module.state_dict().items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _tensor(key: str, like: Tensor, block: Tensor) -> Tensor:
    """Norms around 1, everything else with the variance that keeps activations of order one."""
    if key.endswith("norm.weight") or "norm_out" in key:
        return torch.ones(like.shape, dtype=like.dtype)
    fan_in = like[0].numel() if like.ndim > 1 else 100
    scaled = block * fan_in**-0.5 * (0.2 if "res_unit" in key else 1.0)  # residual branches add up
    times, rest = divmod(like.numel(), BLOCK)
    flat = torch.empty(like.numel(), dtype=like.dtype)
    flat[: times * BLOCK].view(times, BLOCK)[:] = scaled
    flat[times * BLOCK :] = scaled[:rest]
    return flat.view(like.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="2b")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, *PLANNERS], default=["decoder"])
    options = parser.parse_args()
    for part in options.parts:
        start = time.perf_counter()
        module = random_parts(options.family, parts=[part])[part]
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        print(f"{options.family} {part:13} {size / 1e9:6.2f} GB in {time.perf_counter() - start:5.1f} s")


if __name__ == "__main__":
    main()
