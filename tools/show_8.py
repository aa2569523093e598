"""`make show-8`: one training step of a 2B decoder of real size with random weights, in bf16.

On the CPU 30 and 60 s songs, on a CUDA card 60 and 240 s; each with and without recomputation, each in a process of
its own. Prints time, how far memory grew after loading and what the estimate says; then the hour of the 12 GB preset,
computed. Fails if the growth is more than 25 % from the estimate, or the hour is longer than one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from acestep_models.dit.config import DiTConfig  # noqa: E402
from acestep_models.dit.transformer import DiT  # noqa: E402
from acestep_models.training.checkpointed import recompute  # noqa: E402
from acestep_models.training.memory import estimate  # noqa: E402
from acestep_models.training.noise import generator  # noqa: E402
from acestep_models.training.objective import item_losses, noisy, velocity  # noqa: E402
from acestep_models.training.optimizers import make_optimizer  # noqa: E402
from acestep_models.training.presets import duration  # noqa: E402
from acestep_models.training.trainable import Trainable, inject  # noqa: E402
from acestep_models.units import FRAME_RATE  # noqa: E402
from benchmarks.peak import Peak  # noqa: E402
from benchmarks.real_size import random_parts  # noqa: E402

TOKENS = 400  # caption and lyrics of a usual song
TOLERANCE = 0.25
LONGEST_MINUTES = 60.0
GIGABYTE = 1e9
WARM_UP = DiTConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=8, head_dim=16)


@dataclass(frozen=True)
class Settings:
    """What the estimate is asked about; the rank of the 12 GB preset."""

    recompute: str
    kind: str = "lora"
    rank: int = 64
    dropout: float = 0.0
    targets: tuple[str, ...] = ("self_attention", "cross_attention")
    factor: int = -1
    batch: int = 1
    optimizer: str = "adamw"
    ema: float = 0.0


def one_step(decoder: DiT, settings: Settings, frames: int, device: torch.device) -> tuple[Trainable, float]:
    """What a run does once, and the seconds of its long micro-step.

    A short item and a step first, so that the optimizer has its state, and its gradients kept, as between the
    micro-steps of an accumulation: so much is there when the long item comes.
    """
    trainable = inject(decoder, settings.kind, settings.rank)
    recompute(decoder, settings.recompute == "on")
    optimizer = make_optimizer(settings.optimizer, trainable.parameters(), 1e-4, 0.01)
    micro_step(decoder, 20, device)
    optimizer.step()
    start = time.perf_counter()
    micro_step(decoder, frames, device)
    torch.nn.utils.clip_grad_norm_(trainable.parameters(), 1.0)
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return trainable, time.perf_counter() - start


def micro_step(decoder: DiT, frames: int, device: torch.device) -> None:
    """Forward and backward of one item."""
    channels, width = decoder.config.audio_acoustic_hidden_dim, decoder.config.encoder_hidden_size
    x0, eps = (torch.randn(1, frames, channels, generator=generator(0, "noise", n)).to(device) for n in range(2))
    tokens = torch.randn(1, TOKENS, width, generator=generator(0, "sample")).to(device, torch.bfloat16)
    t = torch.tensor([0.5], device=device)
    context = torch.zeros(1, frames, 2 * channels, dtype=torch.bfloat16, device=device)
    v = decoder(noisy(x0, eps, t).bfloat16(), context, tokens, t)
    item_losses(v, velocity(x0, eps)).mean().backward()


def case(seconds: int, settings: Settings, device: torch.device) -> dict[str, float]:
    """One step in this process; bytes and seconds."""
    config = DiTConfig(is_turbo=True, model_version="turbo")
    one_step(DiT(WARM_UP, device=device, dtype=torch.bfloat16), settings, 20, device)  # torch's own code is loaded
    decoder = random_parts("2b", torch.bfloat16, parts=("decoder",))["decoder"].to(device)
    assert isinstance(decoder, DiT)
    frames = seconds * FRAME_RATE
    expected = estimate(config, settings, frames, TOKENS, torch.bfloat16)
    with Peak(device) as peak:
        trainable, taken = one_step(decoder, settings, frames, device)
    up = sum(float(value.detach().abs().sum()) for name, value in trainable.named().items() if name.endswith("up"))
    if not up > 0:
        raise RuntimeError("the step changed nothing")
    found = {"seconds": taken, "growth": float(peak.growth), "expected": float(expected.growth)}
    return found | {"base": float(expected.base), "activations": float(expected.activations)}


def run_apart(seconds: int, recomputed: str, device: str) -> dict[str, float]:
    """`case` in a process of its own, so that nothing of another one is measured."""
    command = [sys.executable, __file__, "--case", str(seconds), "--recompute", recomputed, "--device", device]
    # What is freed goes back to the system at once, or resident memory says nothing about what is in use.
    given_back = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **given_back})
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(device: str) -> bool:
    """Run and print every case; whether all growths are as estimated."""
    good = True
    for seconds in (60, 240) if device == "cuda" else (30, 60):
        for recomputed in ("off", "on"):
            found = run_apart(seconds, recomputed, device)
            ratio = found["growth"] / found["expected"]
            good &= abs(ratio - 1) <= TOLERANCE
            print(
                f"{seconds:3} s song, recomputation {recomputed:3}: step {found['seconds']:6.1f} s, memory after "
                f"loading +{found['growth'] / GIGABYTE:.2f} GB, estimate {found['expected'] / GIGABYTE:.2f} GB "
                f"(of it activations {found['activations'] / GIGABYTE:.2f}), measured / estimate {ratio:.2f}",
                flush=True,
            )
    print(f"the decoder itself: {found['base'] / GIGABYTE:.2f} GB")
    return good


def show_hour() -> bool:
    """Print the arithmetic of the 12 GB preset; whether it is within the hour."""
    hour = duration("12 GB")
    print("The 12 GB preset, 8 songs of 240 s, on a 3090 (computed):")
    for line in hour.lines:
        print(f"  {line}")
    config = DiTConfig()
    whole = estimate(config, Settings("on"), 240 * FRAME_RATE, TOKENS, torch.bfloat16)
    print(f"  memory at 240 s: {whole.total / GIGABYTE:.2f} GB and about 1 GB of the CUDA context (estimate)")
    return hour.total <= LONGEST_MINUTES * 60


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", type=int, help="seconds of one case, in this process")
    parser.add_argument("--recompute", choices=("off", "on"), default="off")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(options.case, Settings(options.recompute), torch.device(options.device))))
        return 0
    start = time.monotonic()
    good = show(options.device)
    quick = show_hour()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{time.monotonic() - start:.0f} s in all; {'all as expected' if good and quick else 'NOT AS EXPECTED'}")
    return 0 if good and quick else 1


if __name__ == "__main__":
    sys.exit(main())
