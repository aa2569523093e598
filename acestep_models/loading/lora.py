"""Whether a file is a LoRA for the decoder at all; what its tensors do is the adapters' affair."""

from __future__ import annotations

from pathlib import Path

from .files import read_files
from .foreign import describe, is_lora, is_our_lora
from .formats import probe
from .header import Header


def read_lora_header(path: Path) -> Header:
    """The header of a LoRA for ACE-Step 1.5.

    Raises:
        ValueError: for a damaged file, a LoRA of another model, and a file that is none; says what it is then.
    """
    header = read_files(path).headers[0]
    if is_our_lora(header.shapes):
        return header
    if is_lora(header.shapes):
        raise ValueError(f"{path}: this is {describe(header.shapes)}.")
    parts = ", ".join(sorted(probe(path).parts))
    raise ValueError(
        f"{path}: this is no LoRA but a checkpoint ({parts}): put it into models/diffusion_models, text_encoders or "
        "vae and choose it in Load DiT."
    )
