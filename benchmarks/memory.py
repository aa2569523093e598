"""What a song of any length needs beside the weights: what lives at once on meta, and what is reserved for it.

    python benchmarks/memory.py --seconds 60 240 600 --family 2b
    python benchmarks/memory.py --seconds 600 --run 20

Real sizes, no numbers and no card: a dispatch mode adds up the tensors that are alive. Attention counts as a fused
kernel does, with its result alone. The decoder is measured by two of its layers: they follow one another. What a song
takes in the main memory, whatever computes it, is printed beside. `--run` decodes a song of so many seconds on the CPU
with random numbers and prints how much the process really grew beside what was counted.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests" / "layers")]

from livebytes import FUSED, peak_bytes  # noqa: E402
from lm import DTYPES  # noqa: E402
from peak import Peak  # noqa: E402
from real_size import FAMILIES, random_parts  # noqa: E402

from acestep_models.dit.config import DiTConfig, activation_bytes  # noqa: E402
from acestep_models.dit.transformer import DiT  # noqa: E402
from acestep_models.ops import META  # noqa: E402
from acestep_models.pipelines.decode import decode  # noqa: E402
from acestep_models.runtime import Handle, PlainRuntime  # noqa: E402
from acestep_models.units import seconds_to_frames  # noqa: E402
from acestep_models.vae.config import OobleckConfig  # noqa: E402
from acestep_models.vae.oobleck import Oobleck  # noqa: E402
from acestep_models.vae.room import DECODING, ENCODING, Side, place  # noqa: E402

TOKENS = 301  # of the condition: 200 of lyrics, one of timbre, 100 of text


def step(config: DiTConfig, frames: int, dtype: torch.dtype) -> str:
    """One velocity of one song."""
    network = DiT(replace(config, num_hidden_layers=2), FUSED, META, dtype)

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device=META, dtype=dtype)

    given = empty(1, frames, 64), empty(1, frames, 128), empty(1, TOKENS, config.encoder_hidden_size), empty(1)
    return in_words(peak_bytes(lambda: network(*given)), activation_bytes(config, 1, frames, TOKENS, dtype))


def sound(side: Side, frames: int, dtype: torch.dtype) -> str:
    """A tile of the VAE, as long as it is where nothing is short."""
    vae = Handle(Oobleck(OobleckConfig(), device=META, dtype=dtype), dtype)
    network, tile = place(PlainRuntime(META), vae, side, frames)
    latents, wave = (torch.empty(1, *shape, device=META, dtype=dtype) for shape in ((64, tile), (2, 1920 * tile)))
    live = peak_bytes(lambda: network.decode(latents) if side is DECODING else network.posterior(wave))
    return f"{in_words(live, side.need(network.config, tile, dtype))}, tiles of {tile} frames"


def run(seconds: float, dtype: torch.dtype) -> str:
    """A decode on the CPU, with what is alive at once counted and the process watched, one after the other.

    The process also holds what kernels set aside and what the allocator keeps for the next tensor.
    """
    vae = Handle(random_parts("2b", dtype, ["vae"])["vae"], dtype)
    latents = torch.randn(1, 64, seconds_to_frames(seconds))
    _, tile = place(PlainRuntime(), vae, DECODING, latents.shape[-1])
    decode(PlainRuntime(), vae, latents[..., :50])  # kernels are chosen and the weights touched
    with Peak() as peak:
        song = decode(PlainRuntime(), vae, latents)
    live = peak_bytes(lambda: decode(PlainRuntime(), vae, latents))
    reserved = DECODING.need(vae.module.config, tile, dtype) + song.nbytes
    return f"{peak.growth / 1e6:7.1f} MB grown, {in_words(live, reserved)}, all with the song, tiles of {tile} frames"


def in_words(live: int, reserved: int) -> str:
    """Both in MB."""
    return f"{live / 1e6:7.1f} MB live, {reserved / 1e6:7.1f} MB reserved"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="2b")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 60.0, 240.0, 600.0])
    parser.add_argument("--run", type=float, default=0.0, help="decode so many seconds on the CPU as well")
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    for seconds in options.seconds:
        frames = seconds_to_frames(seconds)
        print(f"{seconds:5g} s, step:   {step(FAMILIES[options.family], frames, dtype)}")
        print(f"{seconds:5g} s, decode: {sound(DECODING, frames, dtype)}")
        print(f"{seconds:5g} s, encode: {sound(ENCODING, frames, dtype)}")
        print(f"{seconds:5g} s, in the main memory: {1920 * frames * 2 * 4 / 1e6:.1f} MB of sound")
    if options.run:
        print(f"{options.run:5g} s, decoded on the CPU: {run(options.run, dtype)}")


if __name__ == "__main__":
    main()
