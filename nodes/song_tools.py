"""CutSong, LoopSong and JoinSongs: finished songs taken apart and put together, as sound and as latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from ..acestep_models.audio.arrange import CURVES, Curve
from ..acestep_models.blueprint import Blueprint
from ..acestep_models.pipelines.song_tools import MAX_TIMES, MIN_TIMES, Recording, Seam, cut, join_songs, loop
from ..acestep_models.pipelines.told import rearranged, told
from ..acestep_models.units import SAMPLE_RATE
from .host.latents import audio as audio_wire
from .host.latents import audio_parts, blocked, latent_samples
from .host.latents import latent as latent_wire
from .host.schema import io, out, report, schema, socket
from .mask import told_songs
from .measure import (
    listed,
    meter_blueprint_input,
    meter_inputs,
    read_length,
    read_spans,
    spans_inputs,
    spans_problem,
    unit_input,
)
from .widgets import decimal, one_of

KEEP, REMOVE = "keep", "remove"
MODES = (KEEP, REMOVE)
LONGEST_FADE = 30.0


def _crossfade_input(seconds: float, tooltip: str) -> Any:
    return decimal("crossfade", seconds, (0.0, LONGEST_FADE, 0.01), tooltip)


def _curve_input() -> Any:
    tooltip = (
        "How a crossfade of sound goes. linear: for parts that are alike, such as one beat on another. equal power: "
        "for different sounds, which would dip in the middle otherwise. Latents are always joined linearly."
    )
    return socket(io.Combo, "curve", options=list(CURVES), default=CURVES[0], tooltip=tooltip)


def _song_input(kind: Any, name: str, what: str) -> Any:
    other = "latent" if kind is io.Audio else "audio"
    tip = f"{what}. With its {other} connected too, both are worked on in step, on a grid of 0.04 s."
    return socket(kind, name, optional=True, tooltip=tip)


def _outputs() -> list[Any]:
    return [
        out(io.Audio, "audio", "The result as sound, at the rate and with the channels it came in with."),
        out(io.Latent, "latent", "The result as latents, without noise mask."),
    ]


def _recording(audio: Any, latent: Any) -> Recording:
    """What is connected.

    Raises:
        ValueError: for neither, or two that are not the same song.
    """
    wave, rate = (None, SAMPLE_RATE) if audio is None else audio_parts(audio)
    return Recording(wave, rate, None if latent is None else latent_samples(latent))


def _on_paper(blueprint: Sequence[Blueprint] | None, latent: Any) -> Sequence[Blueprint]:
    """Whose bars are counted: those of the blueprint, else of what the latent was made of."""
    if blueprint or latent is None:
        return blueprint or ()
    return told_songs(latent, latent_samples(latent).shape[-1])


def _lost(song: Recording) -> str:
    """How much of the end of a pair's sound the grid does not hold."""
    tail = f"{song.tail:.4f}".rstrip("0").rstrip(".")
    return f"left out: the last {tail} s of the sound, which fill no frame of 0.04 s" if song.tail else ""


def _given_out(song: Recording, *lines: str, of: tuple[Any, ...] = ()) -> io.NodeOutput:
    """Both outputs; what did not come in stops who asks for it, with a sentence. `of`: the latents it is made of."""
    missing = "no {0} came into the node before; connect its {0} input, or use its other output"
    wave = blocked(missing.format("audio")) if song.wave is None else audio_wire(song.wave, song.rate)
    rows = blocked(missing.format("latent")) if song.latents is None else _rearranged(song.latents, of)
    grid = "in step on the grid of 0.04 s" if song.wave is not None and song.latents is not None else ""
    return io.NodeOutput(wave, rows, ui=report(*lines, f"result: {song.seconds:g} s", grid))


def _rearranged(rows: Tensor, of: tuple[Any, ...]) -> dict[str, Any]:
    """Latents with what is still true of the history of those they are made of."""
    meta = rearranged(rows, *(told(one.get("acestep"), latent_samples(one).shape[-1]) for one in of if one))
    return latent_wire(rows, **({} if meta is None else {"acestep": meta}))


def _seam(crossfade: float, curve: str) -> Seam:
    return Seam(crossfade, cast(Curve, one_of("curve", curve, tuple(CURVES))))


def _arranging_inputs() -> list[Any]:
    """What taking parts of one song needs beside the parts."""
    around = (
        "Seconds of crossfade at each seam. It takes the song's own sound beside the parts, so that nothing shifts and "
        "the length stays exact. 0: cut hard."
    )
    return [
        *meter_inputs(),
        _crossfade_input(0.02, around),
        _curve_input(),
        _song_input(io.Audio, "audio", "The song as sound"),
        _song_input(io.Latent, "latent", "The song as latents"),
        meter_blueprint_input(),
    ]


class CutSong(io.ComfyNode):
    """Node "ACEStepCutSong"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A song and spans in; what is kept out."""
        return schema(
            node_id="ACEStepCutSong",
            display_name="ACE-Step 1.5 Cut Song",
            description="Keeps or removes parts of a song, in seconds or bars. Kept parts are joined in the order "
            "written, so that it also rearranges: 1-8, 17-24, 9-16.",
            search_aliases=["trim", "crop audio", "slice", "rearrange", "remove part", "edit audio"],
            inputs=[
                *spans_inputs("The parts, with commas or one a line.", "0-10"),
                socket(
                    io.Combo,
                    "mode",
                    options=list(MODES),
                    default=KEEP,
                    tooltip="keep: the parts, in the order written. remove: the song without them.",
                ),
                *_arranging_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, spans: Any = None, unit: Any = None) -> bool | str:
        """Complain of a text that is no span before anything runs."""
        return spans_problem(spans, unit)

    @classmethod
    def execute(
        cls,
        spans: str,
        unit: str,
        mode: str,
        bpm: float,
        time_signature: str,
        crossfade: float,
        curve: str,
        audio: dict[str, Any] | None = None,
        latent: dict[str, Any] | None = None,
        blueprint: Sequence[Blueprint] | None = None,
    ) -> io.NodeOutput:
        """Cut, and say where."""
        song = _recording(audio, latent)
        parts = read_spans(spans, unit, (bpm, time_signature), _on_paper(blueprint, latent), song.seconds)
        made = cut(song, parts, one_of("mode", mode, MODES) == KEEP, _seam(crossfade, curve))
        places = listed(((part.start, part.end) for part in parts), "{:.2f} to {:.2f} s")
        line = f"{'kept' if mode == KEEP else 'removed'}: {places} of {song.seconds:g} s"
        reached = any(song.reaches_end(part) for part in parts) == (mode == KEEP)
        return _given_out(made, line, _lost(song) if reached else "", of=(latent,))


class LoopSong(io.ComfyNode):
    """Node "ACEStepLoopSong"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A song and a span in; the span several times out."""
        return schema(
            node_id="ACEStepLoopSong",
            display_name="ACE-Step 1.5 Loop Song",
            description="Repeats one part of a song, in time: a chorus twice, four bars of drums for a minute.",
            search_aliases=["repeat", "loop audio", "sample loop"],
            inputs=[
                *spans_inputs("The part, one only.", "0-8", "span"),
                socket(
                    io.Int,
                    "times",
                    default=4,
                    min=MIN_TIMES,
                    max=MAX_TIMES,
                    tooltip="How often it is heard.",
                ),
                *_arranging_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, span: Any = None, unit: Any = None) -> bool | str:
        """Complain of a text that is no span before anything runs."""
        return spans_problem(span, unit)

    @classmethod
    def execute(
        cls,
        span: str,
        unit: str,
        times: int,
        bpm: float,
        time_signature: str,
        crossfade: float,
        curve: str,
        audio: dict[str, Any] | None = None,
        latent: dict[str, Any] | None = None,
        blueprint: Sequence[Blueprint] | None = None,
    ) -> io.NodeOutput:
        """Repeat, and say what."""
        song = _recording(audio, latent)
        parts = read_spans(span, unit, (bpm, time_signature), _on_paper(blueprint, latent), song.seconds)
        if len(parts) != 1:
            raise ValueError(f"span: a loop is of one part, got {len(parts)}; CutSong joins several")
        made = loop(song, parts[0], times, _seam(crossfade, curve))
        lost = _lost(song) if song.reaches_end(parts[0]) else ""
        return _given_out(made, f"{times} times {parts[0].start:.2f} to {parts[0].end:.2f} s", lost, of=(latent,))


class JoinSongs(io.ComfyNode):
    """Node "ACEStepJoinSongs"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Two songs in; one behind the other out."""
        return schema(
            node_id="ACEStepJoinSongs",
            display_name="ACE-Step 1.5 Join Songs",
            description="Puts a second song behind a first, with a crossfade. Sounds of different sample rates or "
            "channels become 48 kHz stereo.",
            search_aliases=["concat audio", "append", "crossfade", "medley", "concatenate"],
            inputs=[
                _crossfade_input(
                    0.5,
                    "How long the end of the first and the start of the second are heard together; the result "
                    "is shorter by it. 0: one right behind the other. In bars if unit says so.",
                ),
                unit_input("Whether crossfade is seconds or bars. Bars need a tempo and a time signature."),
                _curve_input(),
                *meter_inputs(),
                _song_input(io.Audio, "audio_1", "The first song as sound"),
                _song_input(io.Latent, "latent_1", "The first song as latents"),
                _song_input(io.Audio, "audio_2", "The second song as sound"),
                _song_input(io.Latent, "latent_2", "The second song as latents"),
                meter_blueprint_input(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        crossfade: float,
        unit: str,
        curve: str,
        bpm: float,
        time_signature: str,
        audio_1: dict[str, Any] | None = None,
        latent_1: dict[str, Any] | None = None,
        audio_2: dict[str, Any] | None = None,
        latent_2: dict[str, Any] | None = None,
        blueprint: Sequence[Blueprint] | None = None,
    ) -> io.NodeOutput:
        """Join, and say where."""
        for number, one in ((1, (audio_1, latent_1)), (2, (audio_2, latent_2))):
            if one == (None, None):
                raise ValueError(f"audio_{number}, latent_{number}: nothing is connected; connect song {number}")
        first, second = _recording(audio_1, latent_1), _recording(audio_2, latent_2)
        fade = read_length(crossfade, unit, (bpm, time_signature), blueprint)
        seam = _seam(fade, curve)
        made = join_songs(first, second, seam)
        line = f"{first.seconds:g} s and {second.seconds:g} s, overlapping for {seam.made(made):g} s"
        return _given_out(made, line, _changed(first, second, made), of=(latent_1, latent_2))


def _changed(first: Recording, second: Recording, made: Recording) -> str:
    """What had to be done to sounds that differ."""
    if first.wave is None or second.wave is None or (first.rate, first.wave.shape[1]) == _format(second):
        return ""
    rates = ", ".join(f"{rate} Hz with {channels} channel(s)" for rate, channels in map(_format, (first, second)))
    return f"changed: {rates} to {made.rate} Hz stereo"


def _format(song: Recording) -> tuple[int, int]:
    return song.rate, 0 if song.wave is None else song.wave.shape[1]
