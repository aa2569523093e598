"""EncodeSource and LatentSource: a sound to work on, or to listen to."""

from __future__ import annotations

from typing import Any

from ..acestep_models.pipelines.latent_source import latent_source
from ..acestep_models.pipelines.listen import MIN_SOURCE_SECONDS, SMALL_TILE, Source, encode_source
from ..acestep_models.runtime import Handle
from ..acestep_models.units import AUDIO_CHANNELS, CODE_RATE, MAX_SECONDS, SAMPLE_RATE
from ..acestep_models.vae.tiling import TILE
from .host.latents import audio_parts, latent_samples
from .host.runtime import HostRuntime
from .host.schema import AUTO, io, out, report, schema, socket
from .summary import numbers
from .types import Source as SourceType
from .types import Vae
from .widgets import choice, one_of, seed_socket

TILES = {AUTO: TILE, "small": SMALL_TILE, "whole": None}
POSTERIORS = ("mean", "sample")


class EncodeSource(io.ComfyNode):
    """Node "ACEStepEncodeSource"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """VAE and sound in; the sound as latents, with all that belongs to it, out."""
        return schema(
            node_id="ACEStepEncodeSource",
            display_name="ACE-Step 1.5 Encode Source",
            description="Turns a sound into latents of the model, so that other nodes can listen to it or work on it. "
            "The same sound always gives the same latents.",
            search_aliases=["vae encode audio", "audio to latent", "input audio"],
            inputs=_inputs(),
            outputs=[
                out(
                    SourceType,
                    "source",
                    "The sound, its latents and its exact length, for UnderstandAudio, Cover, Repaint, Extend, Morph, "
                    "stems and added tracks.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        vae: Handle[Any],
        audio: dict[str, Any],
        tiled: str,
        song: int,
        posterior: str = POSTERIORS[0],
        seed: int = 0,
    ) -> io.NodeOutput:
        """Encode, and say what was heard."""
        wave, rate = audio_parts(audio)
        check_place(song, len(wave), "sound", "audio")
        tile = TILES[one_of("tiled", tiled, tuple(TILES))]
        sampled = one_of("posterior", posterior, POSTERIORS) == "sample"
        source = encode_source(HostRuntime(), vae, wave[song - 1 : song], rate, tile, seed if sampled else None)
        drawn = f"posterior: a sample, seed {seed}" if sampled else ""
        return io.NodeOutput(source, ui=report(*_describe(source, wave.shape[1], rate), drawn))


class LatentSource(io.ComfyNode):
    """Node "ACEStepLatentSource"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """VAE and latents in, perhaps with their sound; a source out."""
        return schema(
            node_id="ACEStepLatentSource",
            display_name="ACE-Step 1.5 Latent Source",
            description="Takes a finished song as a source without encoding it again, so that what is kept of it stays "
            "as it is through many repaints and extensions.",
            search_aliases=["latent to source", "chain", "repaint again", "extend again"],
            inputs=[
                socket(Vae, "vae", tooltip="From Load DiT."),
                socket(io.Latent, "latent", tooltip="The song as latents, from any node that made one."),
                socket(
                    io.Audio,
                    "audio",
                    optional=True,
                    tooltip="What Decode Audio made of this latent; it is kept to the sample. No Loudness or other "
                    "gain between: the level would jump at the seams. Not connected: the latent is decoded, and what "
                    "a splice kept before is then only near to it.",
                ),
                _song("Which song is taken where several come as a batch."),
            ],
            outputs=[out(SourceType, "source", "The song, its latents and its sound, for Repaint, Extend and others.")],
        )

    @classmethod
    def execute(
        cls, vae: Handle[Any], latent: dict[str, Any], audio: dict[str, Any] | None = None, song: int = 1
    ) -> io.NodeOutput:
        """Pair one song with its sound, and say how long it is."""
        samples = latent_samples(latent)
        check_place(song, len(samples), "song", "latent")
        sound, told = None, "sound: decoded from the latent"
        if audio is not None:
            wave, rate = audio_parts(audio)
            if len(wave) != len(samples):
                raise ValueError(
                    f"audio: expected as many sounds as there are songs in latent, {len(samples)}; got {len(wave)}"
                )
            sound = wave[song - 1 : song], rate
            told = changes(wave.shape[1], rate) or "sound: as it came"
        source = latent_source(HostRuntime(), vae, samples[song - 1 : song], sound)
        length = f"{source.seconds:g} s, {source.samples} samples, {source.latents.shape[-1]} latent frames"
        return io.NodeOutput(source, ui=report(length, told))


def check_place(song: int, count: int, what: str, name: str) -> None:
    """Whether there is a `song` in a batch of `count`, which comes on the input `name`.

    Raises:
        ValueError: for a number out of the batch.
    """
    if not 1 <= song <= count:
        come = f"one {what} comes" if count == 1 else f"so many {what}s come"
        raise ValueError(f"song: expected {numbers(1, count)}, for {come} on {name}; got {song}")


def _song(tooltip: str, optional: bool = True) -> Any:
    return socket(io.Int, "song", default=1, min=1, advanced=True, optional=optional, tooltip=tooltip)


def _inputs() -> list[Any]:
    return [
        socket(Vae, "vae", tooltip="From Load DiT."),
        socket(
            io.Audio,
            "audio",
            tooltip=f"{MIN_SOURCE_SECONDS:g} to {MAX_SECONDS:g} seconds of any sample rate, mono, stereo or surround.",
        ),
        choice(
            "tiled",
            [name for name in TILES if name != AUTO],
            "auto: in pieces of up to 20 seconds, as long as memory allows, that join without a seam. small: of up to "
            "5 seconds, for little memory. whole: in one go. The result is the same.",
            advanced=True,
        ),
        _song("Which sound is taken where several come as a batch.", optional=False),
        socket(
            io.Combo,
            "posterior",
            options=list(POSTERIORS),
            default=POSTERIORS[0],
            optional=True,
            advanced=True,
            tooltip="What is taken of the range of latents that the VAE thinks likely. mean: its middle. sample: one "
            "drawn by the seed, as upstream does.",
        ),
        seed_socket(
            "seed",
            "Another number, another sample; only for posterior sample.",
            optional=True,
            advanced=True,
        ),
    ]


def _describe(source: Source, channels: int, rate: int) -> tuple[str, ...]:
    return (
        f"{source.seconds:g} s, {source.samples} samples, {source.latents.shape[-1]} latent frames",
        changes(channels, rate),
        f"as codes: {source.codes}, which are {source.codes / CODE_RATE:g} s",
    )


def changes(channels: int, rate: int) -> str:
    """What had to be done to a sound before the VAE can hear it; nothing for 48 kHz stereo."""
    changed = [f"{channels} channel{'s' if channels > 1 else ''} to stereo"] if channels != AUDIO_CHANNELS else []
    changed += [f"{rate} Hz to {SAMPLE_RATE} Hz"] if rate != SAMPLE_RATE else []
    return f"changed: {', '.join(changed)}" if changed else ""
