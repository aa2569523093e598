"""Recognise a checkpoint from its header: a list of layouts, one row each (spec/audio.md §1.2 to §1.5).

Nothing is loaded to decide. To teach the loader another layout, add a row.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import DTYPES, Checkpoint, Part
from .files import Entry, Files, is_standard_name, read_files
from .foreign import describe
from .keymaps import COMPONENT, DIFFUSERS, DIT_PARTS, IGNORED, QWEN3, SPLIT, KeyMap, prefixed
from .keymaps_vae import VAE_COMFYUI, VAE_DIFFUSERS
from .packed import scaled_layer
from .roles import TEXT_ENCODER, check_text_width, qwen3_role
from .sections import file_sections

__all__ = ["FORMATS", "Checkpoint", "Format", "probe", "recognise", "recognise_folder"]

SHOWN_KEYS = 5
ANY_QWEN3 = "qwen3"  # becomes text_encoder or lm once its size is known


@dataclass(frozen=True)
class Format:
    """One layout of single files.

    Attributes:
        name: for messages.
        markers: keys that only this layout has; one is enough.
        parts: what the file may hold, and how it names the tensors.
    """

    name: str
    markers: tuple[str, ...]
    parts: Mapping[str, KeyMap]


SPLIT_MARKERS = ("decoder.proj_in.1.weight", "encoder.lyric_encoder.norm.weight", "detokenizer.special_tokens")
QWEN3_MARKER = "layers.0.self_attn.q_norm.weight"
COMPONENT_MARKERS = {
    "decoder": "proj_in_conv.weight",
    "condition": "lyric_encoder.norm.weight",
    "tokenizer": "attention_pooler.special_token",
    "detokenizer": "special_tokens",
}


def _vae_formats(naming: str, marker: str, maps: Mapping[str, KeyMap]) -> Iterable[Format]:
    for style, keymap in maps.items():
        leaf = next(key for key in keymap.table if key.startswith(marker) and not key.endswith(("_g", "0")))
        yield Format(f"VAE with {naming} names ({style})", (leaf,), {"vae": keymap})


FORMATS: tuple[Format, ...] = (
    Format("ACE-Step 1.5 (upstream, ComfyUI split file)", SPLIT_MARKERS, SPLIT),
    *(
        Format(f"diffusers {COMPONENT[part]}", (marker,), {part: DIFFUSERS[part]})
        for part, marker in COMPONENT_MARKERS.items()
    ),
    *_vae_formats("diffusers", "decoder.block.0.conv_t1.", VAE_DIFFUSERS),
    *_vae_formats("ComfyUI", "decoder.layers.1.layers.1.", VAE_COMFYUI),
    Format("Qwen3", (QWEN3_MARKER,), {ANY_QWEN3: QWEN3}),
    Format("Qwen3 under model.", (f"model.{QWEN3_MARKER}",), {ANY_QWEN3: prefixed("model.", QWEN3)}),
)

# Component folder of a diffusers checkpoint -> the parts its file may turn out to be.
FOLDERS: dict[str, str] = {folder: part for part, folder in COMPONENT.items()} | {
    "vae": "vae",
    "text_encoder": TEXT_ENCODER,
}
REQUIRED_FOLDER, FOLDER_INDEX = "transformer", "model_index.json"
# The condition encoder's config says `hidden_size` for what the decoder calls `encoder_hidden_size`.
ENCODER_FIELDS = {
    name: f"encoder_{name}"
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
}


def probe(path: Path) -> Checkpoint:
    """What checkpoint a file or folder holds; reads headers and configs only.

    Raises:
        ValueError: for damaged files, files of other models (the message says which, if it is known), keys that do
            not belong, dtypes that are not read, and configurations that this code does not know.
    """
    path = path.parent if path.name == FOLDER_INDEX else path
    components = [name for name in FOLDERS if (path / name / "config.json").is_file()]
    if REQUIRED_FOLDER in components:
        return recognise_folder(path, {name: read_files(path / name) for name in components})
    return recognise(path, read_files(path))


def recognise(path: Path, files: Files) -> Checkpoint:
    """`probe` for the tensors of one file or one set of shards."""
    sections = file_sections(files)
    sources: dict[str, Part] = {}
    for section, expected in sections:
        found = _roles(section)
        if not expected.issuperset(found) or not sources.keys().isdisjoint(found):
            raise ValueError(
                f"{files.path}: under {section.prefix} it holds {_list(found)}, expected {_list(expected)}, each once. "
                "It was put together wrongly: fetch the published file."
            )
        sources |= found
    _check_whole(path, sources)
    given = sources["decoder"].files.given if "decoder" in sources else files.given
    checkpoint = _checked(Checkpoint(path, _layout(files, sources), sources, given))
    check_text_width(checkpoint)
    return checkpoint


def _roles(files: Files) -> dict[str, Part]:
    """The parts of one section; a Qwen3 has its role."""
    found = _parts(files)
    if ANY_QWEN3 in found:
        part = found.pop(ANY_QWEN3)
        found[qwen3_role(files, part)] = part
    return found


def _layout(files: Files, sources: Mapping[str, Part]) -> str:
    if COMPONENT_MARKERS["decoder"] in files.entries:
        return "diffusers"
    if "decoder" in sources and is_standard_name(files.path):
        return "upstream"
    return "split" if len({part.files.prefix for part in sources.values()}) == 1 else "aio"


def recognise_folder(path: Path, components: Mapping[str, Files]) -> Checkpoint:
    """`probe` for a diffusers folder: component folder -> its files."""
    sources: dict[str, Part] = {}
    for folder, files in components.items():
        found = _parts(files)
        part = found.pop(ANY_QWEN3, None) or found.pop(FOLDERS[folder], None)
        if part is None:
            raise ValueError(
                f"{files.path}: expected the {folder} of ACE-Step 1.5, got {_list(found)}. Fetch it again."
            )
        sources[FOLDERS[folder]] = part
    checkpoint = _checked(Checkpoint(path, "diffusers", sources, _merged_given(components)))
    check_text_width(checkpoint)
    return checkpoint


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    for part in sorted(checkpoint.parts):
        checkpoint.config(part)
    return checkpoint


def _check_whole(path: Path, sources: Mapping[str, Part]) -> None:
    """The encoders of 2B and XL look alike, but the timbre encoder works differently (spec/audio.md §2.4)."""
    if "decoder" not in sources and not sources.keys().isdisjoint(DIT_PARTS):
        raise ValueError(
            f"{path}: holds {_list(sources)} without a decoder, so nothing tells 2B from XL. "
            "Choose the whole model: its split file, or the diffusers folder that has model_index.json."
        )


def _parts(files: Files) -> dict[str, Part]:
    """Every tensor of the files given to the part that knows its name."""
    entries = files.entries
    row = next((row for row in FORMATS if any(marker in entries for marker in row.markers)), None)
    if row is None:
        raise ValueError(_unknown(files, entries))
    _check_dtypes(files, entries)
    found: dict[str, dict[str, Entry]] = {}
    scales: dict[str, dict[str, Entry]] = {}
    strangers = []
    for key, entry in entries.items():
        layer = scaled_layer(key)
        part, ours = _place(row, key if layer is None else f"{layer}.weight")
        if ours is not None and layer is not None:
            scales.setdefault(part, {})[ours.removesuffix(".weight")] = entry
        elif ours is not None:
            found.setdefault(part, {})[ours] = entry
        elif not IGNORED.fullmatch(key):
            strangers.append(key)
    if strangers:
        raise ValueError(_unexpected(files, row, strangers))
    return {part: Part(tensors, files, scales.get(part, {})) for part, tensors in found.items()}


def _place(row: Format, key: str) -> tuple[str, str | None]:
    for part, keymap in row.parts.items():
        ours = keymap.ours(key)
        if ours is not None:
            return part, ours
    return "", None


def _check_dtypes(files: Files, entries: Mapping[str, Entry]) -> None:
    others = {entry.dtype: key for key, entry in entries.items() if entry.dtype not in DTYPES}
    if others:
        found = ", ".join(f"{dtype} ({key})" for dtype, key in sorted(others.items()))
        raise ValueError(
            f"{files.path}: holds numbers of a kind that is not read: {found}. It is a quantised file; choose one in "
            "bf16, fp16, fp32 or fp8 (BF16, F16, F32, F8_E4M3), or a GGUF file."
        )


def _merged_given(components: Mapping[str, Files]) -> dict[str, Any]:
    """One config of upstream's fields out of the configs of diffusers' components; the decoder's wins."""
    merged: dict[str, Any] = {}
    for part, folder in reversed(COMPONENT.items()):
        given = dict(components[folder].given) if folder in components else {}
        merged |= given if part == "decoder" else _encoder_fields(given)
    return merged


def _encoder_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    return {ENCODER_FIELDS.get(name, name): value for name, value in given.items()}


def _unknown(files: Files, entries: Mapping[str, Entry]) -> str:
    what = describe(entries)
    if what is not None:
        return f"{files.path}: this is {what}."
    where = f" under {files.prefix}" if files.prefix else ""
    return (
        f"{files.path}: not a file of ACE-Step 1.5{where}. It begins with {_list(entries)}. "
        f"Known are: {'; '.join(row.name for row in FORMATS)}."
    )


def _unexpected(files: Files, row: Format, strangers: list[str]) -> str:
    what = describe(strangers)
    if what is not None:
        return f"{files.path}: this is {what}. It has {_list(strangers)} beside the keys of {row.name}."
    known = [theirs for keymap in row.parts.values() for theirs in keymap.table]
    near = difflib.get_close_matches(strangers[0], known, n=1)
    closest = f" (closest known: {near[0]})" if near else ""
    return (
        f"{files.path}: {len(strangers)} tensors do not belong to {row.name}: {_list(strangers)}{closest}. "
        "It may be a newer or changed model, or two models in one file: fetch the published file."
    )


def _list(keys: Iterable[str]) -> str:
    names = sorted(keys)
    rest = len(names) - SHOWN_KEYS
    return ", ".join(names[:SHOWN_KEYS]) + (f" and {rest} more" if rest > 0 else "")
