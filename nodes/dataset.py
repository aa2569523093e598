"""BuildDataset and SaveDataset: the songs that a LoRA is trained on, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.runtime import Handle
from ..acestep_models.training.conditions import PrepareOptions, prepare
from ..acestep_models.training.data.captions import spoken, with_instrumental
from ..acestep_models.training.data.clip import MAX_RATIO, TAG_POSITIONS, Clip, Dataset
from ..acestep_models.training.data.dataset_json import write_dataset
from ..acestep_models.training.data.open import open_dataset, stamp
from ..acestep_models.training.data.scan import MANIFEST
from ..acestep_models.training.data.sound import SUFFIXES, sound_clips
from ..acestep_models.training.data.wav import sound_name, with_files
from .host import dataset_files
from .host.latents import audio_parts
from .host.runtime import HostRuntime
from .host.schema import AUTO, first_few, io, out, report, schema, socket
from .lora_made import MADE
from .types import Conditioner, Vae
from .types import Dataset as DatasetType
from .widgets import AUTO_NUMBER, answer, choice, one_of, wire

YES, NO = "yes", "no"
FILE, SOUND, TENSORS = "dataset.json", "sound", "tensors"
MOST_SHOWN = 50  # songs that a report tells of one by one


class BuildDataset(io.ComfyNode):
    """Node "ACEStepBuildDataset"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A folder, or sounds of the graph, in; a checked dataset out."""
        return schema(
            node_id="ACEStepBuildDataset",
            display_name="ACE-Step 1.5 Build Dataset",
            description="Collects songs for training with what lies beside them: lyrics, captions, CSV and JSON. Each "
            "sound is read once, so that a broken one is found now, and the text output says how each file was read.",
            search_aliases=["train lora", "training data", "audio folder", "dataset folder", "captions"],
            inputs=_build_inputs(),
            outputs=[
                out(DatasetType, "dataset", "The songs, for Label Dataset, Save Dataset and Train LoRA."),
                out(io.String, "text", "Each song, and how each file was read."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: Any = None, **others: Any) -> str:
        """Read again when a sound or a text of the folder changed. What is linked arrives as None."""
        try:
            return stamp(dataset_files.dataset_path(folder)) if folder else ""
        except (ValueError, OSError) as error:
            return str(error)

    @classmethod
    def execute(
        cls,
        folder: str,
        name: str,
        tag: str,
        tag_position: str,
        genre_ratio: int,
        instrumental: str,
        audio: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        """Read it all, and say how."""
        one_of("tag_position", tag_position, (AUTO, *TAG_POSITIONS))
        one_of("instrumental", instrumental, (AUTO, YES, NO))
        dataset = _collected(folder, audio)
        dataset = replace(
            dataset,
            name=name.strip() or dataset.name,
            tag=tag or dataset.tag,
            tag_position=dataset.tag_position if tag_position == AUTO else tag_position,
            genre_ratio=dataset.genre_ratio if genre_ratio == AUTO_NUMBER else genre_ratio,
        )
        if instrumental != AUTO:
            dataset = with_instrumental(dataset, instrumental == YES)
        text = report(*describe_dataset(dataset))
        return io.NodeOutput(dataset, text["text"][0], ui=text)


class SaveDataset(io.ComfyNode):
    """Node "ACEStepSaveDataset"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A dataset in; a new folder below output, and its path."""
        return schema(
            node_id="ACEStepSaveDataset",
            display_name="ACE-Step 1.5 Save Dataset",
            description="Writes a dataset as JSON that ACE-Step's own trainer and others read too, in a new folder of "
            "ComfyUI's output folder. With conditioner and vae the songs are written as tensors as well.",
            search_aliases=["dataset json", "export dataset", "preprocess", "tensors", "manifest"],
            inputs=[
                dataset_input(),
                socket(
                    io.String,
                    "name",
                    default="my_songs",
                    tooltip=f"Of the new folder in output/{dataset_files.FOLDER}. A number is added.",
                ),
                socket(
                    Conditioner,
                    "conditioner",
                    optional=True,
                    tooltip="From Load DiT. With vae: the songs are written as tensors too.",
                ),
                socket(
                    Vae,
                    "vae",
                    optional=True,
                    tooltip="From Load DiT. With conditioner: the songs are written as tensors too.",
                ),
            ],
            outputs=[
                out(DatasetType, "dataset", "The same songs; sounds of the graph now lie in files."),
                out(
                    io.String, "path", f"The {FILE}, or the {MANIFEST} of the tensors, for the folder of BuildDataset."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: Any = None) -> bool | str:
        """A name that is none is said before anything runs. What is linked arrives as None."""
        return True if name is None else answer(lambda: dataset_files.check_name(name))

    @classmethod
    def fingerprint_inputs(cls, name: Any = None, **wires: Any) -> str:
        """Written again when the folder was deleted."""
        return str(MADE.gone("SaveDataset", {"name": name}))

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        name: str,
        conditioner: ConditionerModels | None = None,
        vae: Handle[Any] | None = None,
    ) -> io.NodeOutput:
        """Write, and say where."""
        wire("dataset", dataset, Dataset, "Build Dataset")
        if (conditioner is None) != (vae is None):
            raise ValueError("conditioner and vae: tensors need both of them; connect the other one too, or neither")
        readers = None if conditioner is None or vae is None else (conditioner, vae)
        folder = dataset_files.save_dataset(name, lambda draft: _write(dataset, draft, readers))
        MADE.add("SaveDataset", {"name": name}, folder)
        path = folder / TENSORS / MANIFEST if readers else folder / FILE
        saved = replace(
            dataset, clips=tuple(_settled(clip, folder, place) for place, clip in enumerate(dataset.clips, 1))
        )
        lines = (f"saved: {dataset_files.shown(path)}", f"songs: {len(dataset.clips)}")
        return io.NodeOutput(saved, str(path), ui=report(*lines))


def _write(dataset: Dataset, draft: Path, readers: tuple[ConditionerModels, Handle[Any]] | None) -> None:
    """The JSON, the sounds that lie in no file yet, and the tensors.

    Clips that are only tensors cannot be in a JSON of sounds; a dataset of them is encoded already.
    """
    filed = with_files(dataset, draft / SOUND)
    write_dataset(filed, draft / FILE)
    if readers:
        prepare(HostRuntime(), *readers, filed, draft / TENSORS, PrepareOptions())


def _settled(clip: Clip, folder: Path, place: int) -> Clip:
    """The clip, whose sound of the graph lies in the folder now."""
    if clip.sound is None or clip.path is not None:
        return clip
    return replace(clip, path=folder / SOUND / sound_name(place), sound=None)


def _collected(folder: str, audio: dict[str, Any] | None) -> Dataset:
    """The songs of the folder, then the sounds of the graph."""
    if audio is None and not folder.strip():
        raise ValueError("folder: expected a folder of sound files, or sounds on audio; neither is given")
    runtime = HostRuntime()
    found = open_dataset(dataset_files.dataset_path(folder), runtime.check_cancelled) if folder.strip() else None
    more, notes = sound_clips(*audio_parts(audio)) if audio is not None else ((), ())
    if found is None:
        return Dataset("songs", more, notes=notes)
    return replace(found, clips=(*found.clips, *more), notes=(*found.notes, *notes))


def describe_dataset(dataset: Dataset) -> Iterator[str]:
    """What is in it, what was left out, and each song with where its fields come from."""
    clips = dataset.clips
    minutes = sum(clip.seconds for clip in clips) / 60
    yield f"dataset {dataset.name}: {len(clips)} song{'s' if len(clips) > 1 else ''}, {minutes:.1f} minutes"
    yield f"tag: {dataset.tag!r}, {dataset.tag_position}" if dataset.tag else "tag: none"
    yield f"genre instead of caption: {dataset.genre_ratio} %" if dataset.genre_ratio else ""
    yield from (f"note: {note}" for note in dataset.notes)
    yield _missing("caption", [clip.name for clip in clips if not clip.blueprint.caption.strip()])
    yield _missing("lyrics", [clip.name for clip in clips if not clip.blueprint.lyrics.strip()])
    for clip, song in list(zip(clips, spoken(dataset), strict=True))[:MOST_SHOWN]:
        yield f"{clip.name}, {clip.seconds:.1f} s" + (f", {clip.repeat} times" if clip.repeat > 1 else "")
        yield f"  the model reads: {_short(song.caption)} | {_short(song.lyrics)}"
        yield from (f"  {line}" for line in clip.read)
    if len(clips) > MOST_SHOWN:
        yield f"and {len(clips) - MOST_SHOWN} more songs"


def _missing(field: str, names: list[str]) -> str:
    """Label Dataset can fill these."""
    return f"no {field}: {first_few(names)}" if names else ""


def _short(text: str) -> str:
    line = " / ".join(text.split("\n"))
    return f"{line[:80]}..." if len(line) > 80 else line or "nothing"


def dataset_input() -> Any:
    """The wire that carries the songs."""
    return socket(DatasetType, "dataset", tooltip="The songs, from Build Dataset or Label Dataset.")


def _build_inputs() -> list[Any]:
    return [
        socket(
            io.String,
            "folder",
            default="",
            placeholder="my_songs",
            tooltip=f"A folder with sound files ({' '.join(SUFFIXES)}) and what lies beside them, a dataset .json or "
            f"a {MANIFEST} of tensors: a whole path, or one below ComfyUI's input folder.",
        ),
        socket(
            io.String, "name", default="", tooltip="What the dataset is called. Empty: as the folder or the JSON says."
        ),
        socket(
            io.String,
            "tag",
            default="",
            tooltip="Trigger words that each caption gets. Empty: as the JSON says, else none.",
        ),
        choice(
            "tag_position",
            TAG_POSITIONS,
            "Where the tag stands: before the caption, behind it, or instead of it. auto: as the JSON says, else "
            "before it.",
        ),
        socket(
            io.Int,
            "genre_ratio",
            default=AUTO_NUMBER,
            min=AUTO_NUMBER,
            max=MAX_RATIO,
            advanced=True,
            tooltip="Percent of the songs whose genre is read instead of the caption. -1: as the JSON says, else 0.",
        ),
        choice(
            "instrumental",
            (YES, NO),
            "auto: as the files say. yes: songs without lyrics have none. no: a mark of an instrumental in the files "
            "does not count, so that Label Dataset may find lyrics. Lyrics that are there always stay.",
        ),
        socket(
            io.Audio,
            "audio",
            optional=True,
            tooltip="Sounds of the graph, each song of the batch for itself, beside the folder or without one.",
        ),
    ]
