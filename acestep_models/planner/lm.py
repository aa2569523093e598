"""The language model as a value: network, tokenizer, and what is worked out of them once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from ..graphs import Graphs
from ..qwen3.model import Qwen3
from ..qwen3.tokenizer import Tokenizer
from ..runtime import Handle, Runtime
from .vocabulary import Vocabulary

BUS_GB_PER_SECOND = 12.0  # what weights really come through PCIe 4.0 with, as a rule


@dataclass(frozen=True, eq=False)
class LM:
    """What a loader hands out and every planner call takes. `name` is that of the file, for people to read."""

    model: Handle[Qwen3]
    tokenizer: Tokenizer
    name: str
    graphs: Graphs = field(default_factory=Graphs)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Tags, masks and tries of the tokenizer; made at first use, kept as long as the LM."""
        return Vocabulary.read(self.tokenizer)


def _rounded(value: float) -> str:
    """Two digits, and no exponent: "0.0034", "14"."""
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def advice(runtime: Runtime, lm: LM) -> str:
    """What a user should know when a placed LM is not wholly on its device; empty when it is."""
    share = runtime.loaded_share(lm.model)
    if share >= 1.0:
        return ""
    size = sum(weight.numel() * weight.element_size() for weight in lm.model.module.parameters())
    copied = (1 - share) * size / 1e9
    return (
        f"{lm.name}: only {min(round(100 * share), 99)}% of the language model fits on {runtime.device(lm.model)}, so "
        f"about {_rounded(copied)} GB are copied there again for every token: at least about "
        f"{_rounded(copied / BUS_GB_PER_SECOND)} s a token over a PCIe 4.0 bus. Choose a smaller language model "
        "(0.6B needs 1.3 GB, 1.7B 3.7 GB, 4B 8.4 GB), a shorter song or fewer songs at once, or close what else uses "
        "the card"
    )
