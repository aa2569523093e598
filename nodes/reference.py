"""EncodeReference: recordings whose timbre a song shall have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..acestep_models.pipelines.listen import MIN_SOURCE_SECONDS
from ..acestep_models.pipelines.reference import MAX_RECORDINGS, Heard, Recording, Reference, encode_reference
from ..acestep_models.runtime import Handle
from ..acestep_models.units import MAX_SECONDS
from .host.latents import audio_parts
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .source import changes
from .types import Reference as ReferenceType
from .types import Vae
from .widgets import one_of, seed_socket

WINDOWS = ("fixed", "seeded")
MORE = ("audio_2", "audio_3", "audio_4")


class EncodeReference(io.ComfyNode):
    """Node "ACEStepEncodeReference"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """VAE and recordings in; what they sound like out."""
        return schema(
            node_id="ACEStepEncodeReference",
            display_name="ACE-Step 1.5 Encode Reference",
            description="Lets a song sound like a recording: its voice, instruments and mix. Melody and structure are "
            "not taken from it; for those there is Cover.",
            search_aliases=["reference audio", "timbre", "style transfer", "voice"],
            inputs=_inputs(),
            outputs=[
                out(ReferenceType, "reference", "What the recordings sound like, for DiTSample, EncodeSong or Cover.")
            ],
        )

    @classmethod
    def execute(
        cls,
        vae: Handle[Any],
        audio: dict[str, Any],
        windows: str = WINDOWS[0],
        seed: int = 0,
        audio_2: dict[str, Any] | None = None,
        audio_3: dict[str, Any] | None = None,
        audio_4: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        """Encode, and say which parts were heard."""
        seeded = one_of("windows", windows, WINDOWS) == "seeded"
        recordings = [one for value in (audio, audio_2, audio_3, audio_4) if value is not None for one in _each(value)]
        reference = encode_reference(HostRuntime(), vae, recordings, seed if seeded else None)
        how = f"windows: seeded, seed {seed}" if seeded else "windows: fixed"
        return io.NodeOutput(reference, ui=report(*_describe(recordings, reference), how))


def _inputs() -> list[Any]:
    return [
        socket(Vae, "vae", tooltip="From Load DiT."),
        socket(
            io.Audio,
            "audio",
            tooltip=f"{MIN_SOURCE_SECONDS:g} to {MAX_SECONDS:g} seconds of any sample rate, mono, stereo or surround. "
            f"A batch counts as several recordings, at most {MAX_RECORDINGS} altogether.",
        ),
        socket(
            io.Combo,
            "windows",
            options=list(WINDOWS),
            default=WINDOWS[0],
            optional=True,
            advanced=True,
            tooltip="Which 30 seconds are heard. fixed: 10 at the start, 10 after a third and 10 at the end. seeded: "
            "10 at a place in each third that the seed chooses.",
        ),
        seed_socket(
            "seed",
            "Another number, other places; only for seeded windows.",
            optional=True,
            advanced=True,
        ),
        *(socket(io.Audio, name, optional=True, tooltip="One more recording; the song mixes them.") for name in MORE),
    ]


def _each(audio: dict[str, Any]) -> Iterator[Recording]:
    """The recordings of an AUDIO."""
    waves, rate = audio_parts(audio)
    return ((wave[None], rate) for wave in waves)


def _describe(recordings: list[Recording], reference: Reference) -> Iterator[str]:
    several = len(recordings) > 1
    for number, ((wave, rate), heard) in enumerate(zip(recordings, reference.heard, strict=True), 1):
        yield f"{f'recording {number}: ' if several else ''}{_heard(heard)}"
        yield changes(wave.shape[1], rate)
    if several:
        yield f"{len(recordings)} recordings, {len(recordings)} timbre tokens"


def _heard(heard: Heard) -> str:
    repeated = f", repeated {heard.repeats} times to fill 30 s" if heard.repeats > 1 else ""
    places = ", ".join(f"{start:.4g}" for start in heard.starts)
    return f"{heard.seconds:g} s{repeated}; heard: 10 s each from {places} s"
