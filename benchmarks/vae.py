"""Our tiled VAE against diffusers' untiled one on the same work: same weights, same latents, alternating in one run.

    python benchmarks/vae.py --seconds 20 --dtype fp32 bf16 --pairs 5
    python benchmarks/vae.py --what encode

Ours is what a node runs: ComfyUI's casting layers under its memory manager, tiles as long as the room allows. Theirs
is AutoencoderOobleck as it comes, whole. Random weights, no download. Beside the times: how far the two are apart, and
the memory that each run needed beyond what was there before it (the sound itself is a part of it).
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

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Look:
    """One run: seconds of the clock and of the processor, bytes beyond what was there, and what came out."""

    seconds: float
    work: float
    growth: int
    out: Tensor


def ours(pack: Callable[[str], Any], state: dict[str, Tensor], dtype: torch.dtype, device: str, what: str) -> Run:
    """decode or encode_source as a node calls them."""
    config = pack("acestep_models.vae.config").OobleckConfig()
    module = pack("acestep_models.vae.oobleck").Oobleck(
        config, pack("nodes.host.ops").casting_ops(), device="meta", dtype=dtype
    )
    module.load_state_dict(state, strict=True, assign=True)
    runtime = pack("nodes.host.runtime")
    vae = runtime.handle(module.requires_grad_(False), dtype, torch.device(device), torch.device("cpu"))
    if what == "decode":
        decode = pack("acestep_models.pipelines.decode").decode
        return lambda latents: decode(runtime.HostRuntime(), vae, latents)
    encode = pack("acestep_models.pipelines.listen").encode_source
    return lambda wave: encode(runtime.HostRuntime(), vae, wave, RATE).latents


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


def compare(pack: Callable[[str], Any], name: str, options: argparse.Namespace) -> None:
    """One unmeasured pair on a second of sound, then the others, alternating."""
    what, device, dtype = options.what, options.device, DTYPES[name]
    state = {key: value.to(device) for key, value in random_parts("2b", dtype, ["vae"])["vae"].state_dict().items()}
    sides = ours(pack, state, dtype, device, what), theirs(state, dtype, device, what)
    for side in sides:
        look(side, given(what, 1.0), device)
    value, pairs = given(what, options.seconds), []
    for number in range(1, options.pairs + 1):
        mine, other = (look(side, value, device) for side in sides)
        pairs.append((mine, other))
        print(f"{name} pair {number}: {in_words(mine, other)}", flush=True)
    mine, other = pairs[-1]
    ratio = statistics.median(b.seconds / a.seconds for a, b in pairs)
    work = statistics.median(b.work / a.work for a, b in pairs)
    apart = float((mine.out - other.out).abs().max() / other.out.abs().max())
    extra, whole = (max(looks, key=lambda side: side.growth).growth / 2**30 for looks in zip(*pairs, strict=True))
    print(f"{name} {what} of {options.seconds:g} s, median of {options.pairs}: ratio {ratio:.2f} ({FLOORS[what]})")
    print(f"{name} the same in processor time, which other work on the machine disturbs less: {work:.2f}")
    print(f"{name} memory beyond the weights: ours {extra:.2f} GiB, whole {whole:.2f} GiB; apart {apart:.1e}")


def in_words(mine: Look, other: Look) -> str:
    """Both times."""
    return f"ours {mine.seconds:.2f} s, diffusers whole {other.seconds:.2f} s: {other.seconds / mine.seconds:.2f} x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=FLOORS, default="decode")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    pack = load_pack(options.device)
    print(machine(options.device))
    for name in options.dtype:
        compare(pack, name, options)


if __name__ == "__main__":
    main()
