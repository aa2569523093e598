"""Which files belong together: the decoder that was chosen, and a text encoder and a VAE that fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """A part that may lie in a file of its own: its name, folder, released file name, what it is in words.

    `beside` is its folder in upstream's main repository.
    """

    part: str
    category: str
    released: str
    words: str
    beside: str


TEXT_ENCODER = Role(
    "text_encoder",
    "text_encoders",
    "qwen_0.6b_ace15.safetensors",
    "text encoder (Qwen3 0.6B)",
    folders.TEXT_FOLDER,
)
VAE = Role("vae", "vae", "ace_1.5_vae.safetensors", "48 kHz VAE", folders.VAE_FOLDER)
CATEGORIES = ("diffusion_models", "diffusers", folders.CHECKPOINTS, TEXT_ENCODER.category, VAE.category)
READERS = ("condition", "tokenizer", "detokenizer")


@dataclass(frozen=True)
class Sources:
    """The files of one model; `conditioner` is `decoder`, unless that is a decoder alone."""

    decoder: Checkpoint
    conditioner: Checkpoint
    text_encoder: Checkpoint
    vae: Checkpoint


def find_sources(model: str, conditioner: str = AUTO, text_encoder: str = AUTO, vae: str = AUTO) -> Sources:
    """Probe the chosen files; `auto` takes the model's own part, else its neighbour, else the one file that fits.

    Raises:
        ValueError: for a file that is missing, damaged or of another model, or a choice that is not clear.
    """
    decoder = probe(folders.model_path(model))
    if "decoder" not in decoder.parts:
        raise ValueError(
            f"model: {decoder.path.name} holds {listed(decoder.parts)}, not a decoder; "
            "choose a file like acestep_v1.5_turbo.safetensors"
        )
    whole = _conditioner(decoder, conditioner)
    if whole is not decoder:
        decoder = _completed(decoder, whole)
    fits = _reads(decoder_config(whole).text_hidden_dim)
    return Sources(decoder, whole, _find(TEXT_ENCODER, text_encoder, whole, fits), _find(VAE, vae, whole, _any))


def stamp_sources(
    model: str | None, conditioner: str | None = AUTO, text_encoder: str | None = AUTO, vae: str | None = AUTO
) -> str:
    """Changes when any file that `find_sources` takes, or chooses from, does; None is a choice not known yet.

    Raises:
        ValueError: for a file that is missing.
    """
    models = list(_models()) if model is None else [folders.model_path(model)]
    if model is not None and _is_alone(models[0]):
        models += _models() if conditioner in (None, AUTO) else [folders.model_path(str(conditioner), "conditioner")]
    chosen = ((TEXT_ENCODER, text_encoder), (VAE, vae))
    files = [*models, *(file for role, choice in chosen for file in _watched(role, choice or AUTO, models))]
    return "|".join(map(folders.stamp, dict.fromkeys(files)))


def _models() -> Iterator[Path]:
    """Every model that can be chosen."""
    yield from (folders.model_path(name, "conditioner") for name in folders.conditioner_names())


def _is_alone(path: Path) -> bool:
    """Whether a file holds a decoder and no readers; what cannot be read is told when it is loaded."""
    try:
        return "condition" not in probe(path).parts
    except ValueError:
        return False


def _conditioner(decoder: Checkpoint, choice: str) -> Checkpoint:
    """The model whose readers go with the decoder: itself, the one chosen, or the only one of the same sizes."""
    if choice == AUTO:
        return decoder if decoder.parts.issuperset(READERS) else _only_whole(decoder)
    chosen = probe(folders.model_path(choice, "conditioner"))
    if not chosen.parts.issuperset(("decoder", *READERS)):
        raise ValueError(
            f"conditioner: {chosen.path.name} holds {listed(chosen.parts)} and not a whole model; choose the model "
            "that the decoder was made from"
        )
    return decoder if chosen.path == decoder.path else chosen


def _only_whole(decoder: Checkpoint) -> Checkpoint:
    sizes, found = decoder.shapes("decoder"), []
    for path in dict.fromkeys(_models()):
        try:
            other = probe(path)
        except ValueError:
            continue
        if other.parts.issuperset(("decoder", *READERS)) and other.shapes("decoder") == sizes:
            found.append(other)
    if len(found) == 1:
        return found[0]
    config = decoder_config(decoder)
    alone = (
        f"conditioner: {decoder.path.name} holds a decoder and nothing else (width {config.hidden_size}, "
        f"{config.num_hidden_layers} layers), as ComfyUI's ModelSave writes it; what reads the text is missing"
    )
    if found:
        raise ValueError(f"{alone}. Several models fit ({_names(found)}); choose the one that it was made from")
    raise ValueError(
        f"{alone}, and no whole model of this size is installed. Put the one that it was made from into "
        f"{folders.places('diffusion_models')} or {folders.places('checkpoints')} (Hugging Face: {folders.SOURCE})"
    )


def _completed(decoder: Checkpoint, whole: Checkpoint) -> Checkpoint:
    try:
        return decoder.completed(whole)
    except ValueError as error:
        raise ValueError(f"conditioner: {error}") from error


def doubles(sources: Sources) -> tuple[str, ...]:
    """A line for each file that hides another of the same name in the host's other folders: which path is used."""
    used = dict.fromkeys((sources.decoder, sources.conditioner, sources.text_encoder, sources.vae))
    hidden = {
        file.path: [path for kind in CATEGORIES for path in folders.other_paths(kind, file.path)] for file in used
    }
    return tuple(
        f"{path.name} is in several folders: used is {path}, not {', '.join(map(str, others))}"
        for path, others in hidden.items()
        if others
    )


def decoder_config(checkpoint: Checkpoint) -> DiTConfig:
    """The sizes of the decoder and of the networks around it."""
    return cast(DiTConfig, checkpoint.config("decoder"))


def _offered(role: Role, choice: str) -> list[Path]:
    """The chosen file; on auto every file of the role's folder."""
    if choice != AUTO:
        return [folders.weight_path(role.category, choice, role.part)]
    return folders.weight_paths(role.category)


def _watched(role: Role, choice: str, models: list[Path]) -> list[Path]:
    """What `_find` looks at, beside the models."""
    beside = [path.parent / role.beside for path in models] if choice == AUTO else []
    elsewhere = folders.folders_named(role.beside) if choice == AUTO else []
    return [*(path for path in beside if path.is_dir()), *_offered(role, choice), *elsewhere]


def _find(role: Role, choice: str, model: Checkpoint, fits: Fits) -> Checkpoint:
    """The chosen file; on auto the model's own part, its neighbour in upstream's repository, or the one that fits."""
    if choice != AUTO:
        return _checked(role, probe(*_offered(role, choice)), fits)
    if role.part in model.parts:
        return model
    beside = model.path.parent / role.beside
    if model.layout == "upstream" and (beside / "config.json").is_file():
        return _checked(role, probe(beside), fits)
    found = _candidates(role, _offered(role, AUTO), fits)
    return _choose(role, found or _candidates(role, folders.folders_named(role.beside), fits)[:1])


def _checked(role: Role, checkpoint: Checkpoint, fits: Fits) -> Checkpoint:
    """The checkpoint, if it is what the role asks for."""
    if role.part not in checkpoint.parts:
        raise ValueError(
            f"{role.part}: {checkpoint.path.name} holds {listed(checkpoint.parts)}, not the {role.words}; "
            f"choose {role.released}"
        )
    problem = fits(checkpoint)
    if problem:
        raise ValueError(f"{role.part}: {checkpoint.path.name} {problem}; choose {role.released}")
    return checkpoint


def _candidates(role: Role, paths: list[Path], fits: Fits) -> list[Checkpoint]:
    """Every path that is such a part and fits; other models' files are passed over."""
    found = []
    for path in paths:
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
        raise ValueError(f"{role.part}: several files fit ({_names(found)}); choose one by hand")
    return (released or found)[0]


def _reads(width: int) -> Fits:
    """A text encoder must answer in the width that the condition encoder reads."""

    def problem(checkpoint: Checkpoint) -> str | None:
        got = cast(Qwen3Config, checkpoint.config("text_encoder")).hidden_size
        return None if got == width else f"answers in width {got}, but the model reads width {width}"

    return problem


def _names(found: list[Checkpoint]) -> str:
    """File names; whole paths where names are the same."""
    names = [checkpoint.path.name for checkpoint in found]
    return ", ".join(names if len(set(names)) == len(names) else [str(checkpoint.path) for checkpoint in found])


def _any(checkpoint: Checkpoint) -> str | None:
    return None


def listed(parts: frozenset[str]) -> str:
    """What a file holds, in words that do not take its own tokenizer of audio for one of texts."""
    names = {"lm": "a planner (LM)", "text_encoder": "a text encoder", "vae": "a VAE"}
    if {"decoder", "condition"} <= parts:
        rest = sorted(names[part] for part in parts & names.keys())
        return ", ".join(["a whole model (the decoder and what reads for it)", *rest])
    return ", ".join(sorted(names.get(part, f"a {part}") for part in parts)) or "nothing known"
