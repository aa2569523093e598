"""Training steps of ours beside a plain PEFT loop over the same frozen decoder, alternating in one run.

    python benchmarks/train.py                      # a tiny decoder on the CPU
    python benchmarks/train.py --real --layers 4    # real width, a few layers
    python benchmarks/train.py --real --layers 24 --device cuda --seconds 240 --recompute

Prints seconds a step, memory that a step needed, bytes that autograd kept for the gradient, and their ratios (below 1
is better). PEFT runs as it comes: fp32 adapters, attention targets, torch's own AdamW; both at the same rank and data.
On the CPU the memory is resident memory: set MALLOC_MMAP_THRESHOLD_=262144, or small runs reuse what was freed before.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))

from acestep_models.dit.config import DiTConfig
from acestep_models.dit.transformer import DiT
from acestep_models.training.checkpointed import recompute
from acestep_models.training.noise import generator
from acestep_models.training.objective import item_losses, noisy, velocity
from acestep_models.training.optimizers import make_optimizer
from acestep_models.training.trainable import inject
from acestep_models.units import FRAME_RATE
from benchmarks.peak import Peak

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
TINY = dict(
    hidden_size=256,
    intermediate_size=768,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    encoder_hidden_size=256,
    fsq_dim=256,
)


@dataclass
class Side:
    """One of the two loops: `step(item)` does a whole optimizer step."""

    name: str
    decoder: nn.Module
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    kept: int = 0

    def step(self, item: dict[str, Tensor]) -> None:
        """Forward, backward, clip, step."""
        self.optimizer.zero_grad()
        loss(self.decoder, item).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def loss(decoder: nn.Module, item: dict[str, Tensor]) -> Tensor:
    """Of one item, in the decoder's dtype."""
    x = noisy(item["x0"], item["eps"], item["t"]).to(item["context"].dtype)
    v = decoder(x, item["context"], item["tokens"], item["t"])
    return item_losses(v, velocity(item["x0"], item["eps"])).mean()


def frozen(config: DiTConfig, dtype: torch.dtype, device: str) -> DiT:
    """A decoder with cheap random weights of order one."""
    decoder = DiT(config, device=device, dtype=dtype).eval().requires_grad_(False)
    for name, weight in decoder.named_parameters():
        fan_in = weight[0].numel() if weight.ndim > 1 else 1
        nn.init.ones_(weight) if "norm" in name else nn.init.normal_(weight, std=fan_in**-0.5)
    return decoder


def twin(decoder: DiT) -> DiT:
    """Another decoder over the very same weights."""
    other = DiT(decoder.config, device="meta")
    other.load_state_dict(decoder.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def ours(decoder: DiT, rank: int, recomputed: bool) -> Side:
    trainable = inject(decoder, "lora", rank)
    recompute(decoder, recomputed)
    parameters = trainable.parameters()
    return Side("ours", decoder, parameters, make_optimizer("adamw", parameters, 1e-4, 0.01))


def plain_peft(decoder: DiT, rank: int, recomputed: bool) -> Side:
    import peft

    recompute(decoder, recomputed)
    names = [name for name, _ in decoder.named_modules() if name.endswith(TARGETS)]
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    model = peft.get_peft_model(decoder, config)  # type: ignore[arg-type]
    parameters = [value for value in model.parameters() if value.requires_grad]
    for value in parameters:
        value.data = value.data.float()
    return Side("peft", model, parameters, torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01))


def make_item(config: DiTConfig, seconds: float, tokens: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    frames, channels = int(seconds * FRAME_RATE), config.audio_acoustic_hidden_dim
    random: Callable[..., Tensor] = lambda n, *shape: torch.randn(shape, generator=generator(0, "noise", n)).to(device)  # noqa: E731
    return {
        "x0": random(0, 1, frames, channels),
        "eps": random(1, 1, frames, channels),
        "context": random(2, 1, frames, 2 * channels).to(dtype),
        "tokens": random(3, 1, tokens, config.encoder_hidden_size).to(dtype),
        "t": torch.tensor([0.5], device=device),
    }


def kept_bytes(side: Side, item: dict[str, Tensor]) -> int:
    """Every storage that the graph of one pass holds, but for weights."""
    weights = {value.untyped_storage().data_ptr() for value in side.decoder.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(side.decoder, item)
    return sum(storage.nbytes() for storage in held.values())


def alternate(sides: Sequence[Side], item: dict[str, Tensor], rounds: int, device: str) -> None:
    """One step of each to warm up, then `rounds` of each in turn, the order changing."""
    for side in sides:
        side.kept = kept_bytes(side, item)
        side.step(item)
        side.optimizer.zero_grad(set_to_none=True)
    for index in range(rounds):
        for side in sides if index % 2 == 0 else reversed(sides):
            with Peak(device) as peak:
                side.step(item)
            side.optimizer.zero_grad(set_to_none=True)
            side.seconds.append(peak.seconds)
            side.peaks.append(peak.growth)


def report(sides: Sequence[Side]) -> None:
    """One line a side, then ours over the other."""
    rows = [(statistics.median(side.seconds), max(side.peaks) / 1e6, side.kept / 1e6) for side in sides]
    for side, row in zip(sides, rows, strict=True):
        print(f"{side.name:5} {row[0]:8.3f} s a step   peak +{row[1]:9.1f} MB   kept for the gradient {row[2]:9.1f} MB")
    ratios = [mine / theirs if theirs else float("nan") for mine, theirs in zip(*rows, strict=True)]
    print("ours / peft: time {:.2f}, peak {:.2f}, kept {:.2f}".format(*ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="the real width")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recompute", action="store_true", help="in both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    config = DiTConfig(num_hidden_layers=options.layers, **({} if options.real else TINY))
    dtype = getattr(torch, options.dtype)
    decoder = frozen(config, dtype, options.device)
    item = make_item(config, options.seconds, options.tokens, dtype, options.device)
    sides = [make(twin(decoder), options.rank, options.recompute) for make in (ours, plain_peft)]
    alternate(sides, item, options.rounds, options.device)
    print(f"{config.num_hidden_layers} layers of {config.hidden_size}, {options.seconds:g} s, {options.dtype}")
    report(sides)


if __name__ == "__main__":
    main()
