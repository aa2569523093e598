"""SaveBlueprint, LoadBlueprint, BlueprintValues: the song on paper as files and as plain values."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from ..acestep_models.blueprint import Blueprint
from ..acestep_models.blueprint_json import codes_text, read_plan, write_plan
from .host import plan_files
from .host.schema import AUTO, io, out, report, schema, socket
from .plan import METERS, codes_line
from .summary import checked_songs, contents, meant, song_input
from .types import Blueprint as BlueprintType
from .types import Whole, Word
from .widgets import AUTO_NUMBER, blueprint_input

NO_FILE = "none"


class SaveBlueprint(io.ComfyNode):
    """Node "ACEStepSaveBlueprint"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A blueprint in; a JSON file in the output folder."""
        return schema(
            node_id="ACEStepSaveBlueprint",
            display_name="ACE-Step 1.5 Save Blueprint",
            description="Saves songs on paper, codes included, as a small JSON file in ComfyUI's output folder. "
            "Each save is a new file.",
            search_aliases=["export plan", "json", "save codes"],
            inputs=[
                blueprint_input(),
                socket(
                    io.String,
                    "filename_prefix",
                    default=f"{plan_files.FOLDER}/song",
                    tooltip="Folder below output and start of the name; %year%, %month%, %day%, %hour%, %minute% and "
                    "%second% are filled in. A number is added.",
                ),
            ],
            outputs=[out(BlueprintType, "blueprint", "The same songs, unchanged.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, blueprint: tuple[Blueprint, ...], filename_prefix: str) -> io.NodeOutput:
        """Write, and say where."""
        songs = checked_songs(blueprint)
        path = plan_files.save_plan_file(filename_prefix, write_plan(songs))
        return io.NodeOutput(
            songs, ui=report(f"saved: {plan_files.shown(path)}", f"songs: {len(songs)}", codes_line(songs))
        )


class LoadBlueprint(io.ComfyNode):
    """Node "ACEStepLoadBlueprint"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A JSON file, or its text, in; the blueprint out."""
        return schema(
            node_id="ACEStepLoadBlueprint",
            display_name="ACE-Step 1.5 Load Blueprint",
            description="Reads songs on paper from a JSON file or from text: those of SaveBlueprint, and the examples "
            "of ACE-Step 1.5 itself.",
            search_aliases=["import plan", "json", "load codes"],
            inputs=[
                socket(
                    io.Combo,
                    "file",
                    options=[NO_FILE, *plan_files.plan_names()],
                    default=NO_FILE,
                    tooltip="A .json file of ComfyUI's input folder, or one that SaveBlueprint wrote to "
                    f"output/{plan_files.FOLDER}. {NO_FILE}: the text below is read.",
                ),
                socket(
                    io.String,
                    "json",
                    default="",
                    multiline=True,
                    placeholder='{"caption": "calm piano", "duration": 30}',
                    tooltip="The text of such a file, pasted. Empty when a file is chosen.",
                ),
            ],
            outputs=[out(BlueprintType, "blueprint", "The songs on paper, for PlanSong, WriteCodes or DiTSample.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: Any = None, json: Any = None) -> str:
        """Read again when the file says something else. What is linked arrives as None."""
        try:
            text = plan_files.read_plan_file(file) if file and file != NO_FILE else ""
        except (ValueError, OSError) as error:
            text = str(error)
        return hashlib.sha256(f"{text}\0{json}".encode(errors="replace")).hexdigest()

    @classmethod
    def execute(cls, file: str, json: str) -> io.NodeOutput:
        """Read, and say what it says."""
        if (file == NO_FILE) != bool(json.strip()):
            given = "both" if json.strip() else "neither"
            raise ValueError(f"file and json: expected one of them, got {given}; choose a file, or paste its text")
        songs = read_plan(json if file == NO_FILE else plan_files.read_plan_file(file))
        return io.NodeOutput(songs, ui=report(*_doubts(songs), *contents(songs)))


def _doubts(songs: tuple[Blueprint, ...]) -> tuple[str, str]:
    """What is likely a slip: fields that nobody knows, and songs that say nothing."""
    unknown = dict.fromkeys(name for song in songs for name, _ in song.extra)
    silent = [str(number) for number, song in enumerate(songs, 1) if replace(song, extra=()) == Blueprint()]
    where = f" in song {', '.join(silent)}" if len(songs) > 1 else ""
    return (
        f"unknown fields, kept: {', '.join(unknown)}" if unknown else "",
        f"nothing is set{where}: no field that this node knows" if silent else "",
    )


class BlueprintValues(io.ComfyNode):
    """Node "ACEStepBlueprintValues"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A blueprint in; what one of its songs says as plain values out."""
        return schema(
            node_id="ACEStepBlueprintValues",
            display_name="ACE-Step 1.5 Blueprint Values",
            description="Takes one song of a blueprint apart into plain texts and numbers, to show them, to save them "
            "or to wire them into other nodes.",
            search_aliases=["show plan", "get lyrics", "get codes", "bpm", "split blueprint"],
            inputs=[blueprint_input(), song_input(1, "Which song is meant, from 1.")],
            outputs=_value_outputs(),
        )

    @classmethod
    def execute(cls, blueprint: tuple[Blueprint, ...], song: int) -> io.NodeOutput:
        """Its values, and a view of them."""
        songs = checked_songs(blueprint)
        one = songs[meant(songs, song, first=1)[0]]
        return io.NodeOutput(
            one.caption,
            one.lyrics,
            one.bpm or AUTO_NUMBER,
            one.key or AUTO,
            METERS.get(one.time_signature or "", AUTO),
            one.length or float(AUTO_NUMBER),
            one.language or AUTO,
            codes_text(one.codes or ()),
            write_plan((one,)),
            ui=report(*contents((one,))),
        )


def _value_outputs() -> list[Any]:
    return [
        out(io.String, "caption", "How it sounds."),
        out(io.String, "lyrics", "What is sung."),
        out(Whole, "bpm", f"Beats a minute, for either kind of number; {AUTO_NUMBER} = unset."),
        out(Word, "key", f"Such as C# minor, for a list or a text; {AUTO} = unset."),
        out(Word, "time_signature", f"Such as 4/4, for a list or a text; {AUTO} = unset."),
        out(io.Float, "seconds", f"Length, that of the codes where only they are set; {AUTO_NUMBER} = unset."),
        out(Word, "language", f"Such as en, for a list or a text; {AUTO} = unset."),
        out(io.String, "codes", "Audio codes as text, 5 for each second; empty = none."),
        out(io.String, "json", "This song as SaveBlueprint writes it."),
    ]
