"""A step of our decoder against diffusers' on the same work: same weights, same inputs, alternating in one run.

    python benchmarks/dit.py --dtype bf16 --seconds 10 30 60 --pairs 5
    python benchmarks/dit.py --compile --seconds 10 30

Ours is what a node runs: the network behind ComfyUI's MODEL, made of the host's casting layers, with a run's store of
what the condition is to every layer. Theirs is `AceStepTransformer1DModel`. Random weights of the real width that
both share, no download. With --compile it is ours through the node SpeedUp against ours as it is; with --exact it also
tells how far each side is from its own result in fp32. The floors and aims printed are those of issue 9 for bf16 on a
CPU.
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


def our_step_of(ours: Any, store: Any, given: Inputs, wishes: dict[str, Any] | None = None) -> Step:
    """A step of ours, [1, T, 64]; `wishes` are transformer_options of a MODEL."""
    x, context = (given[name].transpose(1, 2).contiguous() for name in ("x", "context"))

    def our_step() -> Tensor:
        tokens = given["tokens"].clone()
        out: Tensor = ours(x, given["t"], tokens, context, told_store=store, transformer_options=wishes)
        return out.transpose(1, 2)

    return our_step


def their_step_of(theirs: Any, given: Inputs) -> Step:
    """A step of theirs, [1, T, 64]."""

    def their_step() -> Tensor:
        out: Tensor = theirs(given["x"], given["t"], given["t"], given["tokens"], given["context"], return_dict=False)[
            0
        ]
        return out

    return their_step


def steps_of(ours: Any, store: Any, theirs: Any, given: Inputs) -> tuple[Step, Step]:
    """One step of each side."""
    return our_step_of(ours, store, given), their_step_of(theirs, given)


def compare_compiled(ours: Any, store: Any, width: int, options: argparse.Namespace) -> None:
    """A line a length: steps with compiled layers against plain ones, and how long the first one took."""
    pack = load_pack(options.device)
    compiler = pack("acestep_models.compiled").Compiler("the decoder", dynamic=None)
    wishes = {pack("nodes.host.models").SPEED: pack("acestep_models.dit.speed").Speed(compiler)}
    for seconds in options.seconds:
        given = song(seconds, width, DTYPES[options.dtype], options.device)
        plain, fast = our_step_of(ours, store(), given), our_step_of(ours, store(), given, wishes)
        first = seconds_of(fast, options.device)
        other, mine = plain().float(), fast().float()
        pairs = [(seconds_of(fast, options.device), seconds_of(plain, options.device)) for _ in range(options.pairs)]
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"{seconds:g} s: compiled {statistics.median(a for a, _ in pairs):.3f} s a step, plain "
            f"{statistics.median(b for _, b in pairs):.3f} s, ratio {ratio:.2f}, difference "
            f"{float((mine - other).abs().max() / other.abs().max()):.1e}, first step {first:.0f} s"
            f"{', NOT COMPILED: ' + compiler.failed if compiler.failed else ''}",
            flush=True,
        )


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


def far(out: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference, as a share of that of the exact one."""
    return float((out.float() - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt())


def rounding(sides: tuple[Any, Any, Any], state: Inputs, given: Inputs, options: argparse.Namespace) -> str:
    """How far each side is from what it says itself in fp32 with the same weights, which take twice the room.

    Two results in bf16 may well be farther from each other than either is from the exact one.
    """
    rounded = [step().float() for step in steps_of(*sides, given)]
    whole = {key: value.float() for key, value in state.items()}
    ours, store = our_decoder(whole, options.family, torch.float32, options.device)
    wide = {name: value.float() for name, value in given.items()}
    exact = [step() for step in steps_of(ours, store(), their_decoder(whole, options.family), wide)]
    mine, other = (far(out, best) for out, best in zip(rounded, exact, strict=True))
    return f"from its own result in fp32: ours {mine:.1e}, diffusers {other:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="2b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30, 60])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="ours compiled against ours plain")
    parser.add_argument("--exact", action="store_true", help="also how far each side is from its own fp32")
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    network = random_parts(options.family, dtype, ["decoder"])["decoder"]
    state = {key: value.to(options.device) for key, value in network.state_dict().items()}
    ours, store = our_decoder(state, options.family, dtype, options.device)
    import diffusers

    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else processor()
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    print(f"{name}, {torch.get_num_threads()} threads, {versions}; {options.family} {options.dtype}")
    width = FAMILIES[options.family].encoder_hidden_size
    with torch.inference_mode():
        if options.compile:
            compare_compiled(ours, store, width, options)
            return
        theirs = their_decoder(state, options.family)
        for seconds in options.seconds:
            given = song(seconds, width, dtype, options.device)
            compare(*steps_of(ours, store(), theirs, given), seconds, options)
            if options.exact:
                print(f"{seconds:g} s: {rounding((ours, store(), theirs), state, given, options)}", flush=True)


if __name__ == "__main__":
    main()
