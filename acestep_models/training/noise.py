"""Random numbers that depend on nothing but what they are for: no state to keep, so a resumed run is exact."""

from __future__ import annotations

import hashlib

import torch

PURPOSES = ("init", "order", "crop", "noise", "time", "drop", "hint", "dropout", "posterior", "sample", "validation")
_BITS = 63  # seeds of torch are signed


def seed_for(seed: int, purpose: str, *numbers: int) -> int:
    """A seed of its own for (seed, purpose, numbers), the same on every machine.

    Raises:
        ValueError: for a purpose that is not in PURPOSES.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"random numbers for {purpose!r}: expected one of {', '.join(PURPOSES)}")
    words = "/".join((str(int(seed)), purpose, *(str(int(number)) for number in numbers)))
    digest = hashlib.sha256(words.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _BITS)


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. the noise of item 17: generator(seed, "noise", 17).

    Raises:
        ValueError: for a purpose that is not in PURPOSES.
    """
    return torch.Generator("cpu").manual_seed(seed_for(seed, purpose, *numbers))
