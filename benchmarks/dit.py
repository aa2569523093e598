"""A step of our decoder against diffusers' on the same work: same weights, same inputs, alternating in one run.

    python benchmarks/dit.py --dtype bf16 --seconds 10 30 60 --pairs 5

Ours is what a node runs: the network behind ComfyUI's MODEL, made of the host's casting layers, with a run's store of
what the condition is to every layer. Theirs is `AceStepTransformer1DModel`. Random weights of the real width that
both share, no download. The floors and aims printed are those of issue 9 for bf16 on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))

from lm import DTYPES, load_pack, processor
from real_size import FAMILIES, random_parts

TOKENS = 301  # 200 of lyrics, one of timbre, 100 of the caption
GOALS = {10: (1.2, 1.4), 30: (1.15, 1.3), 60: (1.2, 1.4)}  # seconds of sound -> floor and aim
NAMES = {".q_proj.": ".to_q.", ".k_proj.": ".to_k.", ".v_proj.": ".to_v.", ".o_proj.": ".to_out.0."}
NAMES |= {
    ".q_norm.": ".norm_q.",
    ".k_norm.": ".norm_k.",
    "proj_in.1.": "proj_in_conv.",
    "proj_out.1.": "proj_out_conv.",
}
Step = Callable[[], Tensor]
Inputs = dict[str, Tensor]


def our_decoder(state: dict[str, Tensor], family: str, dtype: torch.dtype, device: str) -> Any:
    """`diffusion_model` of a MODEL wire; gives its module and the class of its store."""
    pack = load_pack(device)
    import comfy.ops

    config = pack("acestep_models.dit.config").DiTConfig(**vars(FAMILIES[family]))
    model = pack("nodes.host.models").SongDecoder(config, dtype, "meta", comfy.ops.manual_cast)
    model.decoder.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval(), pack("acestep_models.dit.told").ToldStore


def their_decoder(state: dict[str, Tensor], family: str) -> Any:
    """diffusers' transformer over the same weights."""
    from diffusers import AceStepTransformer1DModel

    config = vars(FAMILIES[family])
    known = AceStepTransformer1DModel.__init__.__wrapped__.__code__.co_varnames
    skipped = ("is_turbo", "model_version")
    with torch.device("meta"):
        model = AceStepTransformer1DModel(**{k: v for k, v in config.items() if k in known and k not in skipped})
    model.load_state_dict({their_name(key): value for key, value in state.items()}, strict=True, assign=True)
    return model.eval()  # frozen weights would send torch down a slower way, which no pipeline of theirs takes


def their_name(key: str) -> str:
    """Our key in diffusers' words."""
    for ours, theirs in NAMES.items():
        key = key.replace(ours, theirs)
    return key


def song(seconds: float, width: int, dtype: torch.dtype, device: str) -> Inputs:
    """Random inputs of one song, [B, T, C] and [B, L, E]."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"x": (round(25 * seconds), 64), "context": (round(25 * seconds), 128), "tokens": (TOKENS, width)}
    made = {name: torch.randn(1, *size, generator=generator).to(device, dtype) for name, size in sizes.items()}
    return {**made, "t": torch.full((1,), 0.7, device=device, dtype=dtype)}


def steps_of(ours: Any, store: Any, theirs: Any, given: Inputs) -> tuple[Step, Step]:
    """One step of each side, [1, T, 64]."""
    x, context = (given[name].transpose(1, 2).contiguous() for name in ("x", "context"))

    def our_step() -> Tensor:
        out: Tensor = ours(x, given["t"], given["tokens"].clone(), context, told_store=store)
        return out.transpose(1, 2)

    def their_step() -> Tensor:
        out: Tensor = theirs(given["x"], given["t"], given["t"], given["tokens"], given["context"], return_dict=False)[
            0
        ]
        return out

    return our_step, their_step


def seconds_of(step: Step, device: str) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(ours: Step, theirs: Step, seconds: float, options: argparse.Namespace) -> None:
    """One unmeasured pair, then the others, alternating; a line with the ratio and how far the results differ."""
    mine, other = ours().float(), theirs().float()
    error = float((mine - other).abs().max() / other.abs().max())
    pairs = [(seconds_of(ours, options.device), seconds_of(theirs, options.device)) for _ in range(options.pairs)]
    fast, slow = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    floor, aim = GOALS.get(round(seconds), (1.0, 1.0))
    wanted = f"floor {floor} (aim {aim})" if options.dtype == "bf16" and round(seconds) in GOALS else "no goal"
    print(
        f"{seconds:g} s: ours {fast:.3f} s a step, diffusers {slow:.3f} s, ratio {ratio:.2f}, {wanted}, "
        f"difference {error:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="2b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30, 60])
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    network = random_parts(options.family, dtype, ["decoder"])["decoder"]
    state = {key: value.to(options.device) for key, value in network.state_dict().items()}
    (ours, store), theirs = (
        our_decoder(state, options.family, dtype, options.device),
        their_decoder(state, options.family),
    )
    import diffusers

    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else processor()
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    print(f"{name}, {torch.get_num_threads()} threads, {versions}; {options.family} {options.dtype}")
    width = FAMILIES[options.family].encoder_hidden_size
    with torch.inference_mode():
        for seconds in options.seconds:
            given = song(seconds, width, dtype, options.device)
            compare(*steps_of(ours, store(), theirs, given), seconds, options)


if __name__ == "__main__":
    main()
