"""The planner with int8 weights against itself and `transformers.generate` in bf16: time, bytes, agreement.

    python benchmarks/packed.py --size 0.6b --rounds 5 --codes 24

The three take turns in one process, on the work of benchmarks/lm.py: the same weights (random, no download), prompts
and number of codes. Agreement is that of the likeliest next code after every token of a random text.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lm import CODE_BASE, CODES, SIZES, Ours, Theirs, load_pack, machine, our_planner, seconds_a_token, their_planner
from real_size import PLANNERS, random_parts
from torch import Tensor

DTYPE, DEVICE = torch.bfloat16, "cpu"
FLOOR, AIM = 1.5, 2.0  # of int8 over generate, which stays in bf16
TEXT = 64


def pack_planner(pack: Callable[[str], Any], config: Any, state: dict[str, Tensor]) -> Any:
    """The LM of `our_planner` with its matrices in int8."""
    packed = pack("acestep_models.loading.packed")
    planner = our_planner(pack, config, state, DTYPE, DEVICE)
    model = pack("acestep_models.qwen3.model").Qwen3(
        config, pack("nodes.host.ops").casting_ops(), device="meta", dtype=DTYPE
    )
    packed.pack_layers(model, "lm", packed.Packing(pack("nodes.host.packed").HostPackedLinear, DTYPE))
    numbers: dict[str, Tensor] = {}
    for name, value in state.items():
        layer = name.removesuffix(".weight")
        numbers |= packed.pack_weight(layer, value) if packed.is_packed("lm", layer) else {name: value}
    model.load_state_dict(numbers, strict=True, assign=True)
    place = torch.device(DEVICE)
    planner.model = pack("nodes.host.runtime").handle(model.requires_grad_(False), DTYPE, place, place)
    return planner


def likeness(whole: Any, small: Any) -> str:
    """Cosine of the hidden states, and how often the likeliest code is the same."""
    ids = torch.randint(0, 150_000, (1, TEXT), generator=torch.Generator().manual_seed(5))
    hidden = [planner.model.module(ids).float() for planner in (whole, small)]
    table = whole.model.module.embed_tokens.weight[CODE_BASE : CODE_BASE + CODES].float()
    first, second = ((h @ table.T).argmax(-1) for h in hidden)
    cosine = F.cosine_similarity(hidden[0].flatten(), hidden[1].flatten(), dim=0)
    same = (first == second).float().mean()
    return f"cosine {float(cosine):.5f}, likeliest code the same at {float(same):.0%} of {TEXT} places"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codes", type=int, default=24)
    options = parser.parse_args()
    part = SIZES[options.size]
    state, pack = dict(random_parts("2b", DTYPE, [part])[part].state_dict()), load_pack(DEVICE)
    whole = our_planner(pack, PLANNERS[part], state, DTYPE, DEVICE)
    small = pack_planner(pack, PLANNERS[part], state)
    sizes = [planner.model.owner.model_size() / 1e9 for planner in (whole, small)]
    print(f"{machine(DEVICE)}; {options.size}: {sizes[0]:.2f} GB in bf16, {sizes[1]:.2f} GB in int8")
    with torch.inference_mode():
        print(likeness(whole, small))
        sides = {
            "generate bf16": Theirs(their_planner(PLANNERS[part], state, DEVICE)),
            "ours bf16": Ours(pack, whole),
            "ours int8": Ours(pack, small),
        }
        compare(sides, options.rounds, options.codes)


def compare(sides: dict[str, Any], rounds: int, codes: int) -> None:
    """One unmeasured turn of each, then the rounds."""
    for side in sides.values():
        side.run(4)
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            spent[name].append(seconds_a_token(side.run(codes), DEVICE))
        print(f"round {number}: " + ", ".join(f"{name} {times[-1] * 1e3:.1f} ms" for name, times in spent.items()))
    theirs, ours, int8 = spent.values()
    for name, base in (("ours bf16", ours), ("generate bf16", theirs)):
        print(f"int8 over {name}: {statistics.median(b / a for a, b in zip(int8, base, strict=True)):.2f}")
    print(f"floor {FLOOR} and aim {AIM} are those over generate")


if __name__ == "__main__":
    main()
