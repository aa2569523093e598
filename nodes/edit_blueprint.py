"""EditBlueprint: the user's last word on what a plan says."""

from __future__ import annotations

import re
from typing import Any

from ..acestep_models.blueprint import KEYS, LANGUAGES, MAX_BPM, MAX_SEED, PLANNED, Blueprint
from ..acestep_models.blueprint_fields import JSON_NAMES
from ..acestep_models.blueprint_json import parse_codes
from ..acestep_models.units import MAX_SECONDS
from .describe import describe_old_codes
from .host.schema import AUTO, io, out, report, schema, socket
from .plan import TIME_SIGNATURES
from .summary import checked_songs, contents, meant, song_input
from .types import Blueprint as BlueprintType
from .widgets import AUTO_NUMBER, blueprint_input, decimal

KEEP_NUMBER = 0
_KEEP = "Empty = as it is, auto = unset."
_KEEP_NUMBER = f"{KEEP_NUMBER} = as it is, {AUTO_NUMBER} = unset."
# What people write for a field: its names in files, this node's own for the seed, and each in two words.
_NAMES = {**{name: field for name, field in JSON_NAMES.items() if field in PLANNED}, "song_seed": "seed"}
_TWO_WORDS = re.compile("|".join(rf"\b{name.replace('_', '[ _]')}\b" for name in _NAMES if "_" in name))


class EditBlueprint(io.ComfyNode):
    """Node "ACEStepEditBlueprint"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A blueprint and changes in; the changed blueprint out."""
        return schema(
            node_id="ACEStepEditBlueprint",
            display_name="ACE-Step 1.5 Edit Blueprint",
            description="Changes what a plan says, and locks or frees its fields for the planner. "
            "Whatever stays empty is kept; what a change makes untrue is dropped.",
            search_aliases=["lock", "override plan", "change lyrics", "audio codes", "metadata"],
            inputs=[blueprint_input(), song_input(0, "Which song is meant; 0 = all of them."), *_changes()],
            outputs=[out(BlueprintType, "blueprint", "The same songs with your changes.")],
        )

    @classmethod
    def execute(
        cls,
        blueprint: tuple[Blueprint, ...],
        song: int,
        caption: str,
        lyrics: str,
        bpm: int,
        key: str,
        time_signature: str,
        seconds: float,
        language: str,
        codes: str,
        song_seed: str,
        genres: str,
        sentence: str,
        lock: str,
        unlock: str,
    ) -> io.NodeOutput:
        """Change, lock, and say what it says now."""
        texts = {"caption": caption, "lyrics": lyrics, "genres": genres, "sentence": sentence}
        words = {"key": key, "time_signature": time_signature, "language": language, "codes": codes, "seed": song_seed}
        changes = {name: _text(name, text) for name, text in (texts | words).items() if text.strip()}
        numbers = {"bpm": bpm, "seconds": seconds}
        changes |= {n: None if v == AUTO_NUMBER else v for n, v in numbers.items() if v != KEEP_NUMBER}
        locked, freed = _fields("lock", lock), _fields("unlock", unlock)
        both = sorted(set(locked) & set(freed))
        if both:
            raise ValueError(f"lock and unlock: {', '.join(both)} cannot be in both; take it out of one of them")
        before = checked_songs(blueprint)
        places = meant(before, song)
        songs = tuple(
            _edited(one, changes).unlock(freed).lock(locked) if index in places else one
            for index, one in enumerate(before)
        )
        notes = (_dropped(before, songs), describe_old_codes(before, songs), _alike(changes.get("seed"), len(places)))
        return io.NodeOutput(songs, ui=report(*notes, *contents(songs)))


def _edited(song: Blueprint, changes: dict[str, Any]) -> Blueprint:
    """The song with the changes; errors say what else a number may be here."""
    try:
        return song.edit(**changes)
    except ValueError as error:
        hint = f" ({AUTO_NUMBER} is auto, {KEEP_NUMBER} keeps it)" if str(error).startswith(("bpm", "seconds")) else ""
        raise ValueError(f"{error}{hint}") from error


def _text(name: str, text: str) -> Any:
    """A change as the blueprint takes it; None unsets."""
    plain = text.strip()
    if plain.lower() == AUTO:
        return None
    if name == "codes":
        return parse_codes(text)
    if name == "seed":
        if not (plain.isascii() and plain.isdigit() and len(plain) <= 20):
            raise ValueError(f"song_seed: expected a whole number, auto, or nothing to keep it; got {plain[:40]!r}")
        if int(plain) > MAX_SEED:
            raise ValueError(f"song_seed: expected 0 to {MAX_SEED}, got {plain}")
        return int(plain)
    return plain if name in ("key", "time_signature", "language") else text


def _fields(socket_name: str, text: str) -> list[str]:
    """Names of fields out of a list in text; "all" is each of them."""
    joined = _TWO_WORDS.sub(lambda found: "_".join(found[0].split()), text.lower())
    words = [word for word in re.split(r"[\s,;]+", joined) if word]
    unknown = [word for word in words if word != "all" and word not in _NAMES]
    if unknown:
        raise ValueError(
            f"{socket_name}: {', '.join(unknown[:5])[:100]} is not a field; "
            f"expected all, or some of {', '.join(PLANNED)}"
        )
    return list(PLANNED) if "all" in words else [_NAMES[word] for word in words]


def _alike(seed: int | None, songs: int) -> str:
    """One seed for several songs is rarely what is wanted."""
    if seed is None or songs == 1:
        return ""
    return f"song_seed: one seed for {songs} songs, so their takes will be alike"


def _dropped(before: tuple[Blueprint, ...], after: tuple[Blueprint, ...]) -> str:
    lost = [str(k) for k, (was, now) in enumerate(zip(before, after, strict=True), 1) if was.codes and not now.codes]
    return f"codes of song {', '.join(lost)} dropped; have them written again" if lost else ""


def _line(name: str, tooltip: str, **options: Any) -> Any:
    return socket(io.String, name, default="", tooltip=f"{tooltip} {_KEEP}", **options)


def _changes() -> list[Any]:
    return [
        _line("caption", "How the song sounds.", multiline=True),
        _line("lyrics", "What is sung; [Instrumental] for nothing.", multiline=True),
        socket(
            io.Int,
            "bpm",
            default=KEEP_NUMBER,
            min=AUTO_NUMBER,
            max=MAX_BPM,
            tooltip=f"Beats a minute, 30 to 300. {_KEEP_NUMBER}",
        ),
        _line("key", f"Such as {KEYS[5]} or Am."),
        _line("time_signature", f"One of {', '.join(TIME_SIGNATURES)}."),
        decimal(
            "seconds",
            float(KEEP_NUMBER),
            (float(AUTO_NUMBER), MAX_SECONDS, 0.2),
            f"Length, 10 to 600; another length drops the codes. {_KEEP_NUMBER}",
        ),
        _line("language", f"Of the lyrics: {', '.join(LANGUAGES)}."),
        _line("codes", "Audio codes, 5 for each second: 1,2,3 or <|audio_code_1|>...", multiline=True),
        _line("song_seed", "Noise seed of the song, in place of DiTSample's.", advanced=True),
        _line("genres", "What the planner calls the style; the decoder does not read it.", advanced=True),
        _line("sentence", "What the plan was made from.", advanced=True),
        _names_input("lock", "Fields that the planner must not touch"),
        _names_input("unlock", "Fields that the planner may fill again if they are unset"),
    ]


def _names_input(name: str, what: str) -> Any:
    return socket(io.String, name, default="", tooltip=f"{what}: all, or some of {', '.join(PLANNED)}.")
