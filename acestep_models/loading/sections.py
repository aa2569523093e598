"""Several models in one file, each under a prefix: ComfyUI's all-in-one checkpoint, and what it saves of a MODEL."""

from __future__ import annotations

import re
from dataclasses import replace

from .files import Files
from .foreign import describe
from .keymaps import DIT_PARTS
from .roles import LM, TEXT_ENCODER

HOST_PREFIX, VAE_PREFIX = "model.diffusion_model.", "vae."
TEXT_PREFIX, LM_PREFIX = "text_encoders.qwen3_06b.transformer.", "text_encoders.qwen3_2b.transformer."

# Prefix -> the parts that may be under it (spec/audio.md §1.3); the planner of 1.7B is called 2b there.
SECTIONS: dict[str, frozenset[str]] = {
    HOST_PREFIX: frozenset(DIT_PARTS),
    VAE_PREFIX: frozenset(("vae",)),
    TEXT_PREFIX: frozenset((TEXT_ENCODER,)),
    LM_PREFIX: frozenset((LM,)),
    "text_encoders.qwen3_4b.transformer.": frozenset((LM,)),
}
# What ComfyUI's wrapper of a text encoder saves of itself.
LEFT_OVER = re.compile(r"text_encoders\.[^.]+\.(logit_scale|text_projection(\.weight)?)")
ANYTHING = frozenset((*DIT_PARTS, "vae", TEXT_ENCODER, LM))
SHOWN_KEYS = 5


def file_sections(files: Files) -> list[tuple[Files, frozenset[str]]]:
    """Each model of a file with the parts it may have; a file without prefixes is one section.

    Raises:
        ValueError: for tensors outside of every section of a file that has sections.
    """
    keys = files.entries
    present = [prefix for prefix in SECTIONS if any(key.startswith(prefix) for key in keys)]
    if not present:
        return [(files, ANYTHING)]
    strangers = sorted(key for key in keys if not key.startswith(tuple(present)) and not LEFT_OVER.fullmatch(key))
    if strangers and HOST_PREFIX not in present:
        return [(files, ANYTHING)]  # names of another model that begin alike
    found = [(_section(files, prefix), SECTIONS[prefix]) for prefix in present]
    if strangers:
        ours = f"{HOST_PREFIX}decoder.norm_out.weight" in keys
        what = None if ours else describe(key.removeprefix(HOST_PREFIX) for key in keys)
        raise ValueError(
            f"{files.path}: this is {what}."
            if what
            else f"{files.path}: {len(strangers)} tensors belong to no part of an all-in-one checkpoint of ACE-Step "
            f"1.5: {', '.join(strangers[:SHOWN_KEYS])}. Its parts begin with {', '.join(SECTIONS)}: fetch the "
            "published file."
        )
    return found


def _section(files: Files, prefix: str) -> Files:
    """The config of a whole file is the decoder's."""
    section = files.section(prefix)
    return replace(section, given=files.given) if prefix == HOST_PREFIX and not section.given else section
