"""SpeedUp: compiled layers and CUDA graphs for a decoder, a compiled VAE."""

from __future__ import annotations

from typing import Any

from ..acestep_models.runtime import Handle
from ..acestep_models.vae.compiled import compile_vae
from .host.fused import brings_weights
from .host.models import song_model
from .host.schema import io, out, report, schema, socket
from .host.speed import speed_of, speed_up
from .types import Vae
from .widgets import wire

WAITS = (
    "decoder: as it was, because this ComfyUI brings weights in at each use (start it with --disable-dynamic-vram to "
    "change that)"
)


class SpeedUp(io.ComfyNode):
    """Node "ACEStepSpeedUp"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model, a VAE, or both; the same, made to run faster."""
        return schema(
            node_id="ACEStepSpeedUp",
            display_name="ACE-Step 1.5 Speed Up",
            description="Lets torch compile the decoder and the VAE, and record the decoder's steps on NVIDIA cards. "
            "The first song takes a minute or so longer, those after it less time. What does not work on a machine is "
            "left out by itself, and the song is the same.",
            search_aliases=["torch compile", "cuda graphs", "faster", "torchcompilemodel", "optimize", "speed"],
            inputs=_inputs(),
            outputs=[
                out(io.Model, "model", "The decoder, sped up, for DiTSample or any other sampler."),
                out(Vae, "vae", "The VAE, sped up, for DecodeAudio."),
            ],
        )

    @classmethod
    def execute(
        cls, compile: bool, cuda_graphs: bool, model: Any = None, vae: Handle[Any] | None = None
    ) -> io.NodeOutput:
        """Wishes on copies of what is connected, and what will come of them."""
        text: list[str] = []
        if model is not None:
            song_model(model)
            waits = brings_weights(model)
            model = speed_up(model, compile, cuda_graphs)[0] if compile or cuda_graphs else model
            text += [WAITS] if waits and speed_of(model) else _decoder_lines(model, compile)
        if vae is not None:
            vae = wire("vae", vae, Handle, "Load DiT")
            text.append("VAE: compiled at the first use" if compile else "VAE: as it was")
            vae = compile_vae(vae) if compile else vae
        return io.NodeOutput(model, vae, ui=report(*(text or ["nothing is connected, so nothing is sped up"])))


def _decoder_lines(model: Any, compile: bool) -> list[str]:
    """What will act on the decoder, as far as one can know before it runs: also what was wished before this node."""
    speed = speed_of(model)
    if speed is None:
        return ["decoder: as it was"]
    lines, card = [], model.load_device.type == "cuda"
    if speed.compiler is not None:
        lines.append("decoder: layers compiled at the first run")
    elif compile:
        lines.append("decoder: not compiled, because a GGUF file's blocks are multiplied out anew at each use")
    if speed.graphs is not None:
        lines.append("decoder: steps recorded as CUDA graphs" if card else f"CUDA graphs: none on {model.load_device}")
    acts = speed.compiler is not None or (speed.graphs is not None and card)
    return [*lines, *(["this rests while the decoder's weights do not all fit on the device"] if acts else [])]


def _inputs() -> list[Any]:
    """What to do, and on what."""
    return [
        socket(
            io.Boolean,
            "compile",
            default=True,
            tooltip="Has torch make kernels of its own for this machine. It needs a C++ compiler on a CPU, Triton on "
            "a graphics card; the first song waits for it.",
        ),
        socket(
            io.Boolean,
            "cuda_graphs",
            default=False,
            tooltip="Records a step of the decoder once a song and replays it: saves the time between kernels, which "
            "counts for short songs on fast cards. NVIDIA only; takes the memory of a step once more.",
        ),
        socket(
            io.Model,
            "model",
            optional=True,
            tooltip="From Load DiT. Put LoRA nodes before or behind this one, it makes no difference.",
        ),
        socket(Vae, "vae", optional=True, tooltip="From Load DiT."),
    ]
