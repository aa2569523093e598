"""Which files belong together: the decoder that was chosen, and a text encoder and a VAE that fit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ...acestep_models.dit.config import DiTConfig
from ...acestep_models.loading.formats import Checkpoint, probe
from ...acestep_models.qwen3.config import Qwen3Config
from . import folders
from .schema import AUTO

Fits = Callable[[Checkpoint], "str | None"]


@dataclass(frozen=True)
class Role:
    """A part that may lie in a file of its own: its name, folder, released file name, and what it is in words."""

    part: str
    category: str
    released: str
    words: str


TEXT_ENCODER = Role("text_encoder", "text_encoders", "qwen_0.6b_ace15.safetensors", "text encoder (Qwen3 0.6B)")
VAE = Role("vae", "vae", "ace_1.5_vae.safetensors", "48 kHz VAE")


@dataclass(frozen=True)
class Sources:
    """The files of one model."""

    decoder: Checkpoint
    text_encoder: Checkpoint
    vae: Checkpoint


def find_sources(model: str, text_encoder: str, vae: str) -> Sources:
    """Probe the chosen files; `auto` takes the model's own part, else the one file of the host's folder that fits.

    Raises:
        ValueError: for a file that is missing, damaged or of another model, or a choice that is not clear.
    """
    decoder = probe(folders.model_path(model))
    if "decoder" not in decoder.parts:
        raise ValueError(
            f"model: {decoder.path.name} holds {_listed(decoder.parts)}, not a decoder; "
            "choose a file like acestep_v1.5_turbo.safetensors"
        )
    if "condition" not in decoder.parts:
        raise ValueError(
            f"model: {decoder.path.name} holds a decoder and nothing else, as ComfyUI's ModelSave writes it; what "
            "reads the text is missing. Choose the file that the decoder was made from, and merge in the graph"
        )
    fits = _reads(decoder_config(decoder).text_hidden_dim)
    return Sources(decoder, _find(TEXT_ENCODER, text_encoder, decoder, fits), _find(VAE, vae, decoder, _any))


def stamp_sources(model: str | None, text_encoder: str | None, vae: str | None) -> str:
    """Changes when any file that `find_sources` takes, or chooses from, does; None is a choice not known yet.

    Raises:
        ValueError: for a file that is missing.
    """
    chosen = ((TEXT_ENCODER, text_encoder), (VAE, vae))
    models = folders.weight_paths("diffusion_models") if model is None else [folders.model_path(model)]
    files = [*models, *(file for role, choice in chosen for file in _offered(role, choice or AUTO))]
    return "|".join(map(folders.stamp, files))


def decoder_config(checkpoint: Checkpoint) -> DiTConfig:
    """The sizes of the decoder and of the networks around it."""
    return cast(DiTConfig, checkpoint.config("decoder"))


def _offered(role: Role, choice: str) -> list[Path]:
    """The chosen file; on auto every file of the role's folder."""
    if choice != AUTO:
        return [folders.weight_path(role.category, choice, role.part)]
    return folders.weight_paths(role.category)


def _find(role: Role, choice: str, decoder: Checkpoint, fits: Fits) -> Checkpoint:
    if choice == AUTO and role.part in decoder.parts:
        return decoder
    if choice == AUTO:
        return _choose(role, _candidates(role, fits))
    return _checked(role, probe(*_offered(role, choice)), fits)


def _checked(role: Role, checkpoint: Checkpoint, fits: Fits) -> Checkpoint:
    """The checkpoint, if it is what the role asks for."""
    if role.part not in checkpoint.parts:
        raise ValueError(
            f"{role.part}: {checkpoint.path.name} holds {_listed(checkpoint.parts)}, not the {role.words}; "
            f"choose {role.released}"
        )
    problem = fits(checkpoint)
    if problem:
        raise ValueError(f"{role.part}: {checkpoint.path.name} {problem}; choose {role.released}")
    return checkpoint


def _candidates(role: Role, fits: Fits) -> list[Checkpoint]:
    """Every file of the role's folder that is such a part and fits; other models' files are passed over."""
    found = []
    for path in _offered(role, AUTO):
        try:
            checkpoint = probe(path)
        except ValueError:
            continue
        if role.part in checkpoint.parts and fits(checkpoint) is None:
            found.append(checkpoint)
    return found


def _choose(role: Role, found: list[Checkpoint]) -> Checkpoint:
    if not found:
        raise ValueError(
            f"{role.part}: no {role.words} in {folders.places(role.category)}; put {role.released} there "
            f"(Hugging Face: {folders.SOURCE}) or choose the file by hand"
        )
    released = [checkpoint for checkpoint in found if checkpoint.path.name == role.released]
    if len(found) > 1 and not released:
        names = ", ".join(checkpoint.path.name for checkpoint in found)
        raise ValueError(f"{role.part}: several files fit ({names}); choose one by hand")
    return (released or found)[0]


def _reads(width: int) -> Fits:
    """A text encoder must answer in the width that the condition encoder reads."""

    def problem(checkpoint: Checkpoint) -> str | None:
        got = cast(Qwen3Config, checkpoint.config("text_encoder")).hidden_size
        return None if got == width else f"answers in width {got}, but the model reads width {width}"

    return problem


def _any(checkpoint: Checkpoint) -> str | None:
    return None


def _listed(parts: frozenset[str]) -> str:
    names = {"lm": "a planner (LM)", "text_encoder": "a text encoder", "vae": "a VAE"}
    return ", ".join(sorted(names.get(part, f"a {part}") for part in parts)) or "nothing known"
