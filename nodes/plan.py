"""Blueprint: what the user says about a song."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..acestep_models import blueprint as plan
from ..acestep_models.prompts import CAPTION_TOKENS, LYRIC_TOKENS
from ..acestep_models.units import DEFAULT_SECONDS, MAX_SECONDS, MAX_SONGS, MIN_SECONDS, seconds_to_frames
from .host.schema import AUTO, io, out, report, schema, socket
from .types import Blueprint as BlueprintType
from .widgets import AUTO_NUMBER, answer, choice, decimal, given

TIME_SIGNATURES = ("2/4", "3/4", "4/4", "6/8")
METERS = {signature[0]: signature for signature in TIME_SIGNATURES}  # as a blueprint has it -> as it is shown


class Blueprint(io.ComfyNode):
    """Node "ACEStepBlueprint"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Caption, lyrics and facts, each of which may stay on auto."""
        return schema(
            node_id="ACEStepBlueprint",
            display_name="ACE-Step 1.5 Blueprint",
            description="Describes the song to make: how it sounds, what is sung, how fast and how long. "
            "Whatever stays on auto is left to the model.",
            search_aliases=["caption", "lyrics", "prompt", "tags", "bpm", "song"],
            inputs=[*_texts(), *_facts(), _songs()],
            outputs=[out(BlueprintType, "blueprint", "The song on paper, for DiTSample, EncodeSong or PlanSong.")],
        )

    @classmethod
    def validate_inputs(cls, bpm: Any = None, seconds: Any = None) -> bool | str:
        """Complain before anything runs; a linked input is not known yet and arrives as None.

        Only these two are named: the host repeats a complaint for every input that is.
        """
        return answer(lambda: _blueprint(bpm=given(bpm), seconds=given(seconds)))

    @classmethod
    def execute(
        cls,
        caption: str,
        lyrics: str,
        instrumental: bool,
        bpm: int,
        key: str,
        time_signature: str,
        seconds: float,
        language: str,
        songs: int,
    ) -> io.NodeOutput:
        """One blueprint a song."""
        if not 1 <= songs <= MAX_SONGS:
            raise ValueError(f"songs: expected 1 to {MAX_SONGS}, got {songs}; run the workflow again for more")
        song = _blueprint(
            caption=caption,
            lyrics=plan.INSTRUMENTAL if instrumental else lyrics,
            bpm=given(bpm),
            key=given(key),
            time_signature=given(time_signature),
            seconds=given(seconds),
            language=given(language),
        )
        ignored = "instrumental is on: the lyrics are not sung" if instrumental and lyrics.strip() else ""
        return io.NodeOutput((song,) * songs, ui=report(*_describe(song, seconds, songs), ignored))


def _blueprint(**fields: Any) -> plan.Blueprint:
    """A checked blueprint, whose errors say what auto is called here."""
    try:
        return plan.Blueprint(**fields)
    except ValueError as error:
        hint = f" ({AUTO_NUMBER} means auto)" if str(error).startswith(("bpm", "seconds")) else ""
        raise ValueError(f"{error}{hint}") from error


def _describe(song: plan.Blueprint, asked: float, songs: int) -> tuple[str, ...]:
    length = song.seconds or DEFAULT_SECONDS
    moved = song.seconds not in (None, asked)
    rounded = f" (asked for {asked:g} s: songs are whole fifths of a second)" if moved else ""
    told = f"{length:g} s{rounded}, {seconds_to_frames(length)} frames"
    meter = METERS.get(song.time_signature or "")
    facts = {"bpm": song.bpm, "key": song.key, "time signature": meter, "language": song.language}
    return (
        f"length: {told}" if song.seconds else f"length: auto ({told}, unless a planner chooses another)",
        ", ".join(f"{name}: {value or AUTO}" for name, value in facts.items()),
        f"songs: {songs}",
    )


def codes_line(songs: Sequence[plan.Blueprint]) -> str:
    """Which of the songs follow audio codes; nothing where none does."""
    counts = [len(song.codes or ()) for song in songs]
    if not any(counts):
        return ""
    if len(set(counts)) == 1:
        return f"plan: {counts[0]} codes{' a song' if len(counts) > 1 else ''}"
    told = (f"song {k} {f'{count} codes' if count else 'none'}" for k, count in enumerate(counts, 1))
    return f"plan: {', '.join(told)}"


def _texts() -> list[Any]:
    return [
        socket(
            io.String,
            "caption",
            default="",
            multiline=True,
            dynamic_prompts=True,
            placeholder="warm lo-fi hip hop, Rhodes piano, soft female vocals",
            tooltip="How the song sounds: style, instruments, voice, mood, production. "
            f"With the facts below at most {CAPTION_TOKENS} tokens, which leaves about 150 English words.",
        ),
        socket(
            io.String,
            "lyrics",
            default="",
            multiline=True,
            placeholder="[Verse]\nwords of the first line ...",
            tooltip="What is sung, with parts in brackets such as [Verse] and [Chorus]. Empty with a caption: "
            f"an instrumental. At most {LYRIC_TOKENS} tokens, about 1500 English words.",
        ),
        socket(
            io.Boolean, "instrumental", default=False, tooltip="No singing: the lyrics are left out, whatever they say."
        ),
    ]


def _facts() -> list[Any]:
    return [
        socket(
            io.Int,
            "bpm",
            default=AUTO_NUMBER,
            min=AUTO_NUMBER,
            max=plan.MAX_BPM,
            tooltip=f"Beats a minute, {plan.MIN_BPM} to {plan.MAX_BPM}. {AUTO_NUMBER} = auto: the model decides.",
        ),
        choice("key", plan.KEYS, "Key of the song. auto: the model decides."),
        choice("time_signature", TIME_SIGNATURES, "Beats in a bar. auto: the model decides."),
        decimal(
            "seconds",
            float(AUTO_NUMBER),
            (float(AUTO_NUMBER), MAX_SECONDS, 0.2),
            f"Length of the song, {MIN_SECONDS:g} to {MAX_SECONDS:g} seconds in steps of 0.2. "
            f"{AUTO_NUMBER} = auto: PlanSong decides, without it {DEFAULT_SECONDS:g} seconds.",
        ),
        choice("language", plan.LANGUAGES, "Language of the lyrics. auto: the model hears it from the words."),
    ]


def _songs() -> Any:
    return socket(
        io.Int,
        "songs",
        default=1,
        min=1,
        max=MAX_SONGS,
        tooltip="How many takes to make at once; each has a seed of its own.",
    )
