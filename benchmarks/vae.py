"""Our tiled VAE against diffusers' untiled one on the same work: same weights, same latents, alternating in one run.

    python benchmarks/vae.py --seconds 20 --dtype fp32 bf16 --pairs 5
    python benchmarks/vae.py --what encode
    python benchmarks/vae.py --compile

Ours is what a node runs: ComfyUI's casting layers under its memory manager, tiles as long as the room allows. Theirs
is AutoencoderOobleck as it comes, whole and eager. With `--compile` a third side is ours with compiled snakes, as
SpeedUp makes it. Random weights, no download. Beside the times: how far the sides are apart, how far each is from what
fp32 gives, and the memory that each run needed beyond what was there before it (the sound itself is a part of it).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from lm import DTYPES, load_pack, machine  # noqa: E402
from peak import Peak  # noqa: E402
from real_size import random_parts  # noqa: E402

HOP, RATE = 1920, 48_000
FLOORS = {"decode": "floor 0.85, aim 1.0", "encode": "no floor"}
COMPILED_FLOORS = {"decode": "floor 1.15, aim 1.4", "encode": "no floor"}
WHOLE, OURS, COMPILED = "diffusers whole", "ours", "ours compiled"

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Look:
    """One run: seconds of the clock and of the processor, bytes beyond what was there, and what came out."""

    seconds: float
    work: float
    growth: int
    out: Tensor


def our_vae(pack: Callable[[str], Any], state: dict[str, Tensor], dtype: torch.dtype, device: str) -> Any:
    """The VAE as a node holds it."""
    config = pack("acestep_models.vae.config").OobleckConfig()
    module = pack("acestep_models.vae.oobleck").Oobleck(
        config, pack("nodes.host.ops").casting_ops(), device="meta", dtype=dtype
    )
    module.load_state_dict(state, strict=True, assign=True)
    rest = torch.device("cpu")
    return pack("nodes.host.runtime").handle(module.requires_grad_(False), dtype, torch.device(device), rest)


def ours(pack: Callable[[str], Any], vae: Any, what: str) -> Run:
    """decode or encode_source as a node calls them."""
    runtime = pack("nodes.host.runtime").HostRuntime
    if what == "decode":
        decode = pack("acestep_models.pipelines.decode").decode
        return lambda latents: decode(runtime(), vae, latents)
    encode = pack("acestep_models.pipelines.listen").encode_source
    return lambda wave: encode(runtime(), vae, wave, RATE).latents


def theirs(state: dict[str, Tensor], dtype: torch.dtype, device: str, what: str) -> Run:
    """diffusers' VAE over the same weights, in one piece."""
    from diffusers import AutoencoderOobleck

    sizes = dict(decoder_input_channels=64, sampling_rate=RATE, downsampling_ratios=[2, 4, 4, 6, 10])
    model = AutoencoderOobleck(encoder_hidden_size=128, channel_multiples=[1, 2, 4, 8, 16], **sizes)
    split: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.ndim == 3 and key.endswith(".weight"):  # theirs are weight-normed: length and direction
            split[f"{key}_g"] = torch.linalg.vector_norm(value.float(), dim=(1, 2), keepdim=True)
            split[f"{key}_v"] = value
        else:
            split[key] = value
    model.load_state_dict(split, strict=True)
    model = model.eval().requires_grad_(False).to(device, dtype)

    def decode(latents: Tensor) -> Tensor:
        sound: Tensor = model.decode(latents.to(device, dtype)).sample.float().cpu()
        return sound

    def encode(wave: Tensor) -> Tensor:
        mean: Tensor = model.encode(wave.to(device, dtype)).latent_dist.mode().float().cpu()
        return mean

    return decode if what == "decode" else encode


def given(what: str, seconds: float) -> Tensor:
    """Latents [1, 64, T], or a wave [1, 2, N]."""
    generator, frames = torch.Generator().manual_seed(1), round(seconds * RATE / HOP)
    if what == "decode":
        return torch.randn(1, 64, frames, generator=generator)
    return 0.2 * torch.randn(1, 2, frames * HOP, generator=generator)


def look(run: Run, value: Tensor, device: str) -> Look:
    """One measured run."""
    before = time.process_time()
    with Peak(device) as peak, torch.inference_mode():
        out = run(value)
    return Look(peak.seconds, time.process_time() - before, peak.growth, out)


def sides(
    pack: Callable[[str], Any], state: dict[str, Tensor], name: str, options: argparse.Namespace
) -> dict[str, Run]:
    """What is compared, in the order in which it runs."""
    what, device, dtype = options.what, options.device, DTYPES[name]
    vae = our_vae(pack, state, dtype, device)
    out = {OURS: ours(pack, vae, what), WHOLE: theirs(state, dtype, device, what)}
    if options.compile:
        out[COMPILED] = ours(pack, pack("acestep_models.vae.compiled").compile_vae(vae), what)
    return out


def compare(pack: Callable[[str], Any], name: str, options: argparse.Namespace) -> None:
    """One unmeasured round on a second of sound, then the others, alternating."""
    what, device = options.what, options.device
    weights = random_parts("2b", torch.float32, ["vae"])["vae"].state_dict()
    state = {key: value.to(device, DTYPES[name]) for key, value in weights.items()}
    runs = sides(pack, state, name, options)
    for run in runs.values():
        look(run, given(what, 1.0), device)
    value, rounds = given(what, options.seconds), []
    for number in range(1, options.pairs + 1):
        rounds.append({side: look(run, value, device) for side, run in runs.items()})
        times = ", ".join(f"{side} {one.seconds:.2f} s" for side, one in rounds[-1].items())
        print(f"{name} round {number}: {times}", flush=True)
    print(
        f"{name} {what} of {options.seconds:g} s, median of {options.pairs}, by the clock and by the processor's time:"
    )
    print(f"  {OURS} against {WHOLE}: {ratios(rounds, OURS, WHOLE)} ({FLOORS[what]})")
    if options.compile:
        print(f"  {COMPILED} against {WHOLE}: {ratios(rounds, COMPILED, WHOLE)} ({COMPILED_FLOORS[what]})")
        print(f"  {COMPILED} against {OURS}: {ratios(rounds, COMPILED, OURS)}")
    true = look(theirs(weights, torch.float32, "cpu", what), value, "cpu").out
    for side in runs:
        growth, out = max(one[side].growth for one in rounds) / 2**30, rounds[-1][side].out
        off, error = apart(out, rounds[-1][WHOLE].out), float((out - true).norm() / true.norm())
        print(f"  {side}: {growth:.2f} GiB beyond the weights; {off:.1e} from {WHOLE}, {error:.1e} (RMS) from fp32")


def ratios(rounds: list[dict[str, Look]], side: str, other: str) -> str:
    """How many times faster `side` is than `other`."""
    clock = statistics.median(one[other].seconds / one[side].seconds for one in rounds)
    work = statistics.median(one[other].work / one[side].work for one in rounds)
    return f"{clock:.2f} x, {work:.2f} x"


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=FLOORS, default="decode")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="a third side: ours with compiled snakes")
    options = parser.parse_args()
    pack = load_pack(options.device)
    print(machine(options.device))
    for name in options.dtype:
        compare(pack, name, options)


if __name__ == "__main__":
    main()
