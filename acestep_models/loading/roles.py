"""Which of its two jobs a Qwen3 has: reading the caption (text encoder) or planning the song (LM)."""

from __future__ import annotations

from .checkpoint import Checkpoint, Part
from .files import Files
from .header import ROLE_KEY as ROLE_KEY
from .shapes import side

TEXT_ENCODER, LM = "text_encoder", "lm"

LM_ROWS = 217_204  # text, special tokens and 65 535 audio codes (spec/planner.md §1.2)
ENCODER_ROWS, ENCODER_WIDTH = 151_669, 1024
PLAIN_ROWS = 151_936


def qwen3_role(files: Files, part: Part) -> str:
    """`text_encoder` or `lm`.

    Raises:
        ValueError: for a Qwen3 that is neither.
    """
    role = files.metadata.get(ROLE_KEY) or files.given.get(ROLE_KEY)
    if role in (TEXT_ENCODER, LM):
        return str(role)
    if "embed_tokens.weight" not in part.shapes:
        raise ValueError(f"{files.path}: a Qwen3 without embed_tokens.weight: the file is incomplete. Fetch it again.")
    rows, width = _table(part, files)
    if rows >= LM_ROWS:
        return LM
    if (rows, width) == (ENCODER_ROWS, ENCODER_WIDTH):
        return TEXT_ENCODER
    plain = " It looks like a plain Qwen3." if rows == PLAIN_ROWS else ""
    raise ValueError(
        f"{files.path}: a Qwen3 of width {width} with {rows} tokens.{plain} The text encoder is Qwen3-Embedding-0.6B "
        f"(width {ENCODER_WIDTH}, {ENCODER_ROWS} tokens, qwen_0.6b_ace15.safetensors), a planner has {LM_ROWS} tokens "
        "(acestep-5Hz-lm)."
    )


def _table(part: Part, files: Files) -> tuple[int, int]:
    """Rows and width of the embedding."""
    try:
        return side(part.shapes, "embed_tokens.weight", 0), side(part.shapes, "embed_tokens.weight", 1)
    except ValueError as error:
        raise ValueError(f"{files.path}: {error}.") from error


def check_text_width(checkpoint: Checkpoint) -> None:
    """Raises a ValueError if the text encoder of a folder is not as wide as its condition encoder reads."""
    if not {TEXT_ENCODER, "condition"} <= checkpoint.parts:
        return
    width = checkpoint.shapes(TEXT_ENCODER)["embed_tokens.weight"][1]
    wanted = checkpoint.shapes("condition")["text_projector.weight"][1]
    if width != wanted:
        raise ValueError(
            f"{checkpoint.path}: the text encoder is {width} wide, the condition encoder reads {wanted}: "
            "they belong to different models. Fetch the folder again."
        )
