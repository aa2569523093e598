"""From a planner's files to ACESTEP_LM: the language model under the memory manager, and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import comfy.model_management as management
import torch

from ...acestep_models.loading.formats import Checkpoint, probe
from ...acestep_models.loading.roles import ENCODER_ROWS, LM_ROWS
from ...acestep_models.planner.lm import LM
from ...acestep_models.qwen3.config import LM_06B, LM_4B, LM_17B, Qwen3Config
from ...acestep_models.qwen3.tokenizer import Tokenizer, check_vocabulary
from . import folders
from .loader import INT8, cast_part, decoder_dtype
from .packed import weights_in
from .runtime import handle
from .sources import listed

PART = "lm"
SIZES = {LM_06B: "0.6B", LM_17B: "1.7B", LM_4B: "4B"}
CHOOSE = (
    "choose a planner: qwen_1.7b_ace15.safetensors or qwen_4b_ace15.safetensors in models/text_encoders, a folder "
    "acestep-5Hz-lm-0.6B, -1.7B or -4B, or a name with (download)"
)


@dataclass(frozen=True, eq=False)
class LoadedLM:
    """What LoadLM gives out, and what it says of it; `tokenizer` names where the tokenizer came from."""

    lm: LM
    path: Path
    config: Qwen3Config
    device: torch.device
    tokenizer: str

    @property
    def size(self) -> str:
        """As the authors call it, else its weights in millions."""
        return SIZES.get(self.config, f"{weights_in(self.lm.model.module) / 1e6:.1f} M weights")


def open_planner(path: Path) -> Checkpoint:
    """What the file or folder at `path` is, if it holds a planner.

    Raises:
        ValueError: for a file that is damaged, or of another model.
    """
    checkpoint = probe(path)
    if PART not in checkpoint.parts:
        rows = f" of {ENCODER_ROWS} tokens (a planner has {LM_ROWS})" if "text_encoder" in checkpoint.parts else ""
        raise ValueError(f"model: {path.name} holds {listed(checkpoint.parts)}{rows}, not a planner (LM); {CHOOSE}")
    return checkpoint


def load_planner(checkpoint: Checkpoint, precision: str) -> LoadedLM:
    """Build the language model with its weights mapped into memory where they need no cast.

    It computes where the decoder does: every weight is read for every token, which the CPU is too slow for. For the
    same reason it is a plain patcher, also where newer hosts bring weights one by one at their use: it shall lie on
    the card as a whole.

    Raises:
        ValueError: for weights that do not fit the network, or a tokenizer that does not fit the weights.
    """
    device = management.get_torch_device()
    dtype = decoder_dtype(precision, device)
    config = cast(Qwen3Config, checkpoint.config(PART))
    source = checkpoint.tokenizer_source(PART)
    tokenizer = Tokenizer.from_source(source or folders.host_tokenizer())
    check_vocabulary(tokenizer, config.vocab_size)
    module = cast_part(checkpoint, PART, dtype, device, precision == INT8)
    model = handle(module, dtype, device, management.text_encoder_offload_device(), disable_dynamic=True)
    name = checkpoint.path.name.removesuffix(".safetensors").removesuffix(".gguf")
    lm = LM(model, tokenizer, name)
    return LoadedLM(lm, checkpoint.path, config, device, _origin(source))


def _origin(source: str | Path | None) -> str:
    if source is None:
        return "ComfyUI's own"
    return "of the file" if isinstance(source, str) else f"{source.parent.name}/{source.name}"
