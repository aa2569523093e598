"""Released models by name: what is here of them, and, if the user allows it, what is fetched into ComfyUI's folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...acestep_models.loading import hub
from ...acestep_models.loading.formats import probe
from ...acestep_models.loading.zoo import TEXT_ENCODER, VAE, ZOO, Part, ZooModel, readable
from . import folders
from .runtime import HostRuntime
from .schema import AUTO

_LEGACY = ("unet", "clip")  # what ComfyUI called diffusion_models and text_encoders; it lists them first
_BESIDE = {TEXT_ENCODER.name: folders.TEXT_FOLDER, VAE.name: folders.VAE_FOLDER}
_ANY = next(iter(ZOO))  # whatever the model is, text encoder and VAE are the same


def zoo_names() -> list[str]:
    """The decoders that can be fetched, by the names of their authors."""
    return [name for name, model in ZOO.items() if model.variant]


def planner_names() -> list[str]:
    """The planners that can be fetched, by the names of their authors."""
    return [name for name, model in ZOO.items() if not model.variant]


def on_disk(model: str) -> str | None:
    """The entry of the list of models, or of planners, that a released one has here; None without; others stay.

    A folder of exactly that name is meant before any other file of the model.
    """
    there = folders.planner_names() if model in planner_names() else folders.model_names()
    if model not in ZOO or model in there:
        return model
    targets = [source.target for source in ZOO[model].part.sources]
    found = (name for target in targets for name in there if _last(name) == target)
    return next(found, None)


def _last(name: str) -> str:
    return name.replace(os.sep, "/").rpartition("/")[2]


def note(model: str) -> str:
    """Name and sizes of a released model in one line."""
    parts = ", ".join(f"{part.name.replace('_', ' ')} {_size(part)}" for part in ZOO[model].parts)
    return f"{model}: {parts}"


def _size(part: Part) -> str:
    return f"{'' if part.exact else 'about '}{readable(part.bytes)}"


def ready(model: str, text_encoder: str, vae: str, download: bool) -> str:
    """The entry of `folders.model_names` to load; with `download`, whatever it lacks is fetched first.

    Raises:
        ValueError: for a released model that is not here, with `download` off: says the sizes and what to do.
        ACEStepError: for a download that failed.
    """
    name = on_disk(model)
    if name is None and not download:
        raise ValueError(_offer(ZOO[model]))
    if not download:
        return str(name)
    present = set(_present(name, {TEXT_ENCODER.name: text_encoder, VAE.name: vae}))
    row = model if model in ZOO else _ANY
    if any(part.name not in present for part in ZOO[row].parts):
        _fetch(row, present)
    return str(on_disk(model))


def ready_planner(model: str, download: bool) -> str:
    """The entry of `folders.planner_names` to load; a released planner that is not here is fetched with `download`.

    Raises:
        ValueError, ACEStepError: as `ready`.
    """
    name = on_disk(model)
    if name is None and not download:
        raise ValueError(_offer(ZOO[model]))
    if name is None:
        _fetch(model, set())
    return str(on_disk(model))


def _offer(model: ZooModel) -> str:
    source = model.part.sources[0]
    return (
        f"model: {model.name} is not here. Switch download on in this node, and it is fetched once from "
        f"https://huggingface.co/{source.repo} into models/{source.category} ({note(model.name)}; what is here already "
        "is not fetched again); or put the file there by hand"
    )


def _present(name: str | None, choices: dict[str, str]) -> Iterator[str]:
    """The parts that need not be fetched: the decoder, what was chosen by hand, what the model or a folder has."""
    own: frozenset[str] = frozenset()
    if name is not None:
        yield "decoder"
        own = probe(folders.model_path(name)).parts
    for part in (TEXT_ENCODER, VAE):
        if choices[part.name] != AUTO or part.name in own or any(_is(part, path) for path in _where(part)):
            yield part.name


def _where(part: Part) -> list[Path]:
    return [*folders.weight_paths(part.sources[0].category), *folders.folders_named(_BESIDE[part.name])]


def _is(part: Part, path: Path) -> bool:
    """Whether a file or folder holds the part; what cannot be read does not."""
    try:
        return part.name in probe(path).parts
    except ValueError:
        return False


def _fetch(row: str, present: set[str]) -> None:
    """Fetch what a row of the zoo lacks, and let ComfyUI's lists know."""
    categories = {source.category for part in ZOO[row].parts for source in part.sources}
    runtime = HostRuntime()
    wanted = hub.plan(row, {category: home(category) for category in categories}, runtime, present)
    logging.info("ACE-Step 1.5: fetching %s", wanted.describe())
    try:
        paths = hub.fetch(wanted, runtime)
    finally:
        for category in categories:
            folder_paths.filename_list_cache.pop(category, None)
    logging.info("ACE-Step 1.5: fetched %s", ", ".join(map(str, paths)))


def home(category: str) -> Path:
    """Where new files of a category go: its first folder that can be written to, the user's own default first.

    Raises:
        ValueError: where none can be written to.
    """
    places = [Path(place) for place in folder_paths.get_folder_paths(category)]
    for place in sorted(places, key=lambda place: place.name in _LEGACY):
        above = next((folder for folder in (place, *place.parents) if folder.exists()), place)
        if os.access(above, os.W_OK):
            return place
    raise ValueError(
        f"download: no folder for {category} can be written to ({folders.places(category)}); make one writable, or "
        "name one in extra_model_paths.yaml"
    )
