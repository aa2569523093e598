"""The memory of the device that is trained on: its peak, and what is said where it runs out."""

from __future__ import annotations

import torch

from .options import TrainOptions

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory, on a card or on the CPU, where it has no class of its own for it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error).lower() for word in _WORDS)


def empty_cache(device: torch.device) -> None:
    """Give back what torch holds on a card for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak(device: torch.device) -> int:
    """The most bytes that torch held on a card since `forget_peak`, 0 elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def forget_peak(device: torch.device) -> None:
    """The peak is a run's own, not that of what the process did before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def advice(options: TrainOptions, step: int, said: str, *, recomputing: bool) -> str:
    """What a user can do so that step `step` (0 is the first) fits; `said` is torch's own word."""
    ways = [] if recomputing else ["set recompute to on"]
    ways += [f"set batch to 1 (it is {options.batch})"] if options.batch > 1 else []
    ways += [
        f"learn crops of {'fewer' if options.crop_seconds else '60'} seconds",
        f"lower the rank {options.rank}",
    ]
    return f"memory ran out at step {step + 1} ({said}). To train here, {', '.join(ways)}, or close other programs."
