"""ApplyLoRA and HookLoRA: an adapter on a MODEL, or on a CONDITIONING for a part of the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..acestep_models.adapters.files import Adapter, Skipped
from ..acestep_models.adapters.match import Match, match
from ..acestep_models.adapters.select import Choice, layer_of, parse_layers, select
from .host import loras
from .host.adapters import Deltas, Shapes, apply, decoder_shapes, hook
from .host.models import song_model
from .host.schema import io, out, report, schema, socket
from .lora_inputs import STRONGEST, alpha_input, check_finite, given_alpha, lora_input
from .lora_report import OFF, describe_adapter, describe_match, modules
from .variant import differs
from .widgets import answer, decimal


@dataclass(frozen=True)
class Settings:
    """The widgets of both nodes, less the file and its strength."""

    self_attention: float
    cross_attention: float
    mlp: float
    other: float
    layers: str

    def check(self, strength: float) -> None:
        """Raises a ValueError for a number that is none, and layers that are none."""
        check_finite(
            strength=strength,
            self_attention=self.self_attention,
            cross_attention=self.cross_attention,
            mlp=self.mlp,
            other=self.other,
        )
        parse_layers(self.layers)

    def pick(self, deltas: Deltas, count: int) -> Deltas:
        """Those deltas that are wanted of a decoder of `count` layers, multiplied.

        Raises:
            ValueError: for a layer that it does not have.
        """
        layers = parse_layers(self.layers)
        if layers and max(layers) >= count:
            raise ValueError(
                f"layers: {self.layers!r} names layer {max(layers)}, but this decoder has {count}, 0 to {count - 1}"
            )
        return select(deltas, Choice(self.self_attention, self.cross_attention, self.mlp, self.other, layers))


class ApplyLoRA(io.ComfyNode):
    """Node "ACEStepApplyLoRA"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model and a file; the model with the adapter."""
        return schema(
            node_id="ACEStepApplyLoRA",
            display_name="ACE-Step 1.5 Apply LoRA",
            description="Puts a LoRA, LoKr, LoHa or DoRA of any trainer on the decoder at its right strength, and says "
            "what of it fits. Several in a row act together.",
            search_aliases=["lora loader", "load lora", "lokr", "loha", "dora", "peft", "adapter", "style"],
            inputs=[
                socket(io.Model, "model", tooltip="The decoder, from Load DiT or another Apply LoRA."),
                *_inputs(),
            ],
            outputs=[out(io.Model, "model", "The decoder with the adapter, for DiTSample or any other sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: Any = None, **given: Any) -> str:
        """Apply again when a file was replaced. What is linked arrives as None."""
        return loras.lora_stamp(lora) if lora else ""

    @classmethod
    def validate_inputs(cls, lora: Any = None, layers: Any = None, alpha: Any = None) -> bool | str:
        """Complain before anything runs."""
        return _problem(lora, layers, alpha)

    @classmethod
    def execute(
        cls,
        model: Any,
        lora: str,
        strength: float,
        self_attention: float,
        cross_attention: float,
        mlp: float,
        other: float,
        layers: str,
        alpha: float,
    ) -> io.NodeOutput:
        """Read, match, patch a clone, say what was done."""
        decoder, settings = song_model(model), Settings(self_attention, cross_attention, mlp, other, layers)
        settings.check(strength)
        number = given_alpha(alpha)
        if not strength:
            return io.NodeOutput(model, ui=report(f"lora: {lora}", OFF))
        adapter = loras.load_lora(lora, number)
        found, deltas = _chosen(lora, adapter, settings, decoder_shapes(model))
        text = (
            *describe_adapter(lora, adapter),
            *describe_match(adapter, found, deltas, strength),
            _variant_line(adapter, decoder.variant_name),
        )
        _log(lora, found.unmatched)
        return io.NodeOutput(apply(model, deltas, strength), ui=report(*text))


class HookLoRA(io.ComfyNode):
    """Node "ACEStepHookLoRA"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A file; hooks for ComfyUI's conditioning nodes."""
        return schema(
            node_id="ACEStepHookLoRA",
            display_name="ACE-Step 1.5 Hook LoRA",
            description="A LoRA for a part of the run, or for one conditioning: give it a schedule with ComfyUI's hook "
            "keyframes, and hang it on the conditioning of EncodeSong.",
            search_aliases=["lora schedule", "create hook lora", "hooks", "keyframes"],
            inputs=[
                *_inputs(),
                socket(
                    io.Hooks,
                    "prev_hooks",
                    optional=True,
                    tooltip="From another hook node. Both act.",
                ),
            ],
            outputs=[out(io.Hooks, "hooks", "For Set Hook Keyframes, and Cond Set Props on the conditioning.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: Any = None, **given: Any) -> str:
        """Read again when a file was replaced. What is linked arrives as None."""
        return loras.lora_stamp(lora) if lora else ""

    @classmethod
    def validate_inputs(cls, lora: Any = None, layers: Any = None, alpha: Any = None) -> bool | str:
        """Complain before anything runs."""
        return _problem(lora, layers, alpha)

    @classmethod
    def execute(
        cls,
        lora: str,
        strength: float,
        self_attention: float,
        cross_attention: float,
        mlp: float,
        other: float,
        layers: str,
        alpha: float,
        prev_hooks: Any = None,
    ) -> io.NodeOutput:
        """Read now; what fits shows when a sampler brings the model."""
        settings = Settings(self_attention, cross_attention, mlp, other, layers)
        settings.check(strength)
        number = given_alpha(alpha)
        if not strength:
            return io.NodeOutput(hook(lambda shapes: {}, 0.0, prev_hooks), ui=report(f"lora: {lora}", OFF))
        adapter = loras.load_lora(lora, number)

        def choose(shapes: Shapes) -> Deltas:
            found, deltas = _chosen(lora, adapter, settings, shapes)
            _log(lora, found.unmatched)
            return deltas

        text = (*describe_adapter(lora, adapter), f"strength: {strength:g}, times that of the keyframes")
        return io.NodeOutput(hook(choose, strength, prev_hooks), ui=report(*text))


def _inputs() -> list[Any]:
    """The file, how strong it acts, and on what."""
    part = (-STRONGEST, STRONGEST, 0.05)
    names = {
        "self_attention": "what the song makes of itself: structure and sound",
        "cross_attention": "what it makes of caption, lyrics and reference",
        "mlp": "the layers' own knowledge: timbre and detail",
        "other": "the few modules outside attention and MLP, such as the projections in and out",
    }
    return [
        lora_input(),
        decimal("strength", 1.0, part, "1: as trained. 0: off, the model is passed on. Below 0: the opposite."),
        *(decimal(name, 1.0, part, f"Times strength, for {words}.", advanced=True) for name, words in names.items()),
        socket(
            io.String,
            "layers",
            default="",
            advanced=True,
            tooltip='Only these layers of the decoder, such as "0-11, 20". Empty = all. Modules outside the layers '
            "still act, unless other is 0.",
        ),
        alpha_input(),
    ]


def _problem(lora: Any, layers: Any, alpha: Any) -> bool | str:
    """A linked input is not known yet and arrives as None."""

    def check() -> None:
        if lora is not None:
            loras.lora_path(lora)
        parse_layers(layers or "")
        given_alpha(alpha)

    return answer(check)


def _chosen(lora: str, adapter: Adapter, settings: Settings, shapes: Shapes) -> tuple[Match, Deltas]:
    """What fits the decoder, and what of it is wanted.

    Raises:
        ValueError: where nothing fits, with the name of the file: several may stand in a row.
    """
    try:
        found = match(adapter, shapes)
    except ValueError as error:
        raise ValueError(f"lora: {lora}: {error}") from error
    layers = {layer_of(name) for name in shapes} - {None}
    return found, settings.pick(found.deltas, len(layers))


def _variant_line(adapter: Adapter, variant: str) -> str:
    """A warning where an adapter was surely trained on another variant; authors say it in words of their own."""
    trained = adapter.facts.base_variant or ""
    return f"trained on {trained}, this is {variant}: it may act weaker" if differs(trained, variant) else ""


def _log(lora: str, unmatched: tuple[Skipped, ...]) -> None:
    if unmatched:
        logging.warning("ACE-Step 1.5: %s: %s not fitting this model", lora, modules(len(unmatched)))
