"""Our decoder's step and our planner's token with fused projections against the same without, alternating in one run.

    python benchmarks/fused.py --part dit --seconds 30 --pairs 5
    python benchmarks/fused.py --part lm --size 0.6b --pairs 5 --codes 32

Both sides are what a node holds and share one set of weights (random, no download), in which the projections lie under
one another: one side takes them as one product, the other each by itself. The planner is timed as in benchmarks/lm.py.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from dit import seconds_of, song
from lm import DTYPES, SIZES, Ours, load_pack, machine, our_planner, seconds_a_token
from real_size import FAMILIES, PLANNERS, random_parts
from torch import Tensor, nn

Side = Callable[[], float]


def join(pack: Callable[[str], Any], module: nn.Module) -> None:
    """Bring the weights of a network together, also where the pack would not, and let that count."""
    fused = pack("nodes.host.fused")
    fused.gains = lambda device: True
    for group in fused.find_groups(module):
        fused.join(group)


def apart(pack: Callable[[str], Any], module: nn.Module) -> None:
    """Let every layer compute by itself, wherever its weights lie."""
    plain = pack("acestep_models.ops").joined
    for part in module.modules():
        if hasattr(part, "JOINT"):
            part.ops = replace(part.ops, joined=plain)


def decoder_sides(options: argparse.Namespace) -> tuple[Side, Side]:
    """Seconds of one step, fused and not."""
    pack, dtype = load_pack(options.device), DTYPES[options.dtype]
    import comfy.ops

    config = pack("acestep_models.dit.config").DiTConfig(**vars(FAMILIES[options.family]))
    state: dict[str, Tensor] = random_parts(options.family, dtype, ["decoder"])["decoder"].state_dict()
    given = song(options.seconds, config.encoder_hidden_size, dtype, options.device)
    sides = []
    for together in (True, False):
        model = pack("nodes.host.models").SongDecoder(config, dtype, "meta", comfy.ops.manual_cast)
        model.decoder.load_state_dict(state, strict=True, assign=True)
        model.requires_grad_(False).eval().to(options.device)
        (join if together else apart)(pack, model)
        state = model.decoder.state_dict()
        sides.append(decoder_side(model, pack("acestep_models.dit.told").ToldStore(), given, options.device))
    return sides[0], sides[1]


def decoder_side(model: Any, store: Any, given: dict[str, Tensor], device: str) -> Side:
    """Seconds of one step of `model`."""
    x, context = (given[name].transpose(1, 2).contiguous() for name in ("x", "context"))

    def step() -> Tensor:
        out: Tensor = model(x, given["t"], given["tokens"].clone(), context, told_store=store)
        return out

    return lambda: seconds_of(step, device)


def planner_sides(options: argparse.Namespace) -> tuple[Side, Side]:
    """Seconds of one token, fused and not."""
    pack, dtype, part = load_pack(options.device), DTYPES[options.dtype], SIZES[options.size]
    state: dict[str, Tensor] = random_parts("2b", dtype, [part])[part].state_dict()
    state = {key: value.to(options.device) for key, value in state.items()}
    sides = []
    for together in (True, False):
        planner = our_planner(pack, PLANNERS[part], state, dtype, options.device)
        (join if together else apart)(pack, planner.model.module)
        state = planner.model.module.state_dict()
        sides.append(planner_side(Ours(pack, planner), options))
    return sides[0], sides[1]


def planner_side(side: Ours, options: argparse.Namespace) -> Side:
    """Seconds of a token of one run."""
    return lambda: seconds_a_token(side.run(options.codes), options.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("dit", "lm"), default="dit")
    parser.add_argument("--family", choices=FAMILIES, default="2b")
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--codes", type=int, default=32)
    options = parser.parse_args()
    print(f"{machine(options.device)}; {options.part} {options.dtype} on {options.device}")
    with torch.inference_mode():
        fused, plain = decoder_sides(options) if options.part == "dit" else planner_sides(options)
        fused(), plain()
        pairs = [(fused(), plain()) for _ in range(options.pairs)]
    fast, slow = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    best = min(b for _, b in pairs) / min(a for a, _ in pairs)
    print(f"fused {fast:.2f} ms, one by one {slow:.2f} ms, ratio {ratio:.3f}, of the best ones {best:.3f}")


if __name__ == "__main__":
    main()
