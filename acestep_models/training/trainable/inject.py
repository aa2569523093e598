"""Put trained layers into a decoder, take their values out, and put the plain layers back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...adapters.adapter import Adapter, AdapterFacts
from ...dit.transformer import DiT
from ...layers import FeedForward
from ..noise import generator
from .lean import LeanFeedForward, LeanNorm
from .lora import Setting, Trained, TrainedLoKr, TrainedLoRA
from .targets import targets_of

LORA, LOKR = "lora", "lokr"
KINDS: dict[str, Callable[[nn.Linear, Setting, torch.Generator], Trained]] = {LORA: TrainedLoRA, LOKR: TrainedLoKr}


class Trainable:
    """The trained layers inside one decoder. Made by `inject`."""

    def __init__(self, layers: Mapping[str, Trained], undo: Sequence[Callable[[], None]]) -> None:
        self.layers = dict(layers)
        self._undo = list(undo)

    def named(self) -> dict[str, nn.Parameter]:
        """Parameter by name, e.g. "layers.0.self_attn.q_proj.down", always in the same order."""
        return {f"{name}.{part}": value for name, layer in self.layers.items() for part, value in _own(layer)}

    def parameters(self) -> list[nn.Parameter]:
        """The values of `named`."""
        return list(self.named().values())

    def adapter(self, facts: AdapterFacts, values: Mapping[str, Tensor] | None = None) -> Adapter:
        """What was trained, as data: fp32 copies on the CPU, of `values` (by the names of `named`) or of the
        parameters. Ranks, alphas and width in `facts` are filled in."""
        held = self.named() if values is None else values
        self._check(held)
        deltas = {
            name: layer.delta({part: _copied(held[f"{name}.{part}"]) for part, _ in _own(layer)})
            for name, layer in self.layers.items()
        }
        setting = next(iter(self.layers.values())).setting
        ranks = tuple(sorted({delta.rank for delta in deltas.values() if delta.rank is not None}))
        return Adapter(deltas, replace(facts, ranks=ranks, alphas=(float(setting.alpha),)))

    def load(self, source: Adapter | Mapping[str, Tensor]) -> None:
        """Go on from an adapter, or from tensors by the names of `named`.

        Raises:
            ValueError: unless it is for exactly these layers, in kind, size and scale.
        """
        values = self._values_of(source) if isinstance(source, Adapter) else source
        self._check(values)
        with torch.no_grad():
            for name, parameter in self.named().items():
                parameter.copy_(values[name])

    def remove(self) -> None:
        """Put the plain layers back; the decoder is as it was. A second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def _check(self, values: Mapping[str, Tensor]) -> None:
        named = self.named()
        if odd := sorted(named.keys() ^ values.keys()):
            side = "is missing" if odd[0] in named else "is not trained here"
            raise ValueError(f"adapter: {odd[0]} {side} ({len(odd)} names differ); it was trained with other settings")
        for name, parameter in named.items():
            if values[name].shape != parameter.shape:
                raise ValueError(
                    f"adapter: {name} is {list(values[name].shape)}, expected {list(parameter.shape)}; it was trained "
                    "with other settings"
                )

    def _values_of(self, adapter: Adapter) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name, delta in adapter.deltas.items():
            layer = self.layers.get(name)
            parts = {} if layer is None else layer.values_of(delta)
            if layer is None or not parts:
                raise ValueError(f"adapter: {name} is a {delta.kind}, which is not trained there")
            scale = float(getattr(delta, "scale", 1.0))
            if abs(scale - layer.setting.scale) > 1e-6 * layer.setting.scale:
                raise ValueError(f"adapter: {name} has the scale {scale:g}, expected {layer.setting.scale:g}")
            values |= {f"{name}.{part}": value for part, value in parts.items()}
        return values


def inject(
    decoder: DiT,
    kind: str,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = ("self_attention", "cross_attention"),
    factor: int = -1,
    seed: int = 0,
) -> Trainable:
    """Freeze a decoder and put fresh trained layers into it; its output does not change by a bit.

    The decoder's norms and feed-forward parts become ones that keep less for the gradient; keys of its weights stay.

    Args:
        decoder: of plain torch layers, on its device and in its dtype, made outside inference mode.
        kind: a row of KINDS.
        alpha: None = rank, that is scale 1.
        targets: rows of TARGETS.
        factor: of a LoKr, -1 = near the square root.

    Raises:
        ValueError: for values that cannot be, or in inference mode, where nothing can be trained.
    """
    setting = Setting(rank, float(rank) if alpha is None else alpha, dropout, factor)
    _check(decoder, kind, setting)
    plain = {target.name: _plain(decoder, target.name) for target in targets_of(decoder.config, targets)}
    decoder.requires_grad_(False)
    layers = {
        name: KINDS[kind](layer, setting, generator(seed, "init", index)).train(decoder.training)
        for index, (name, layer) in enumerate(plain.items())
    }
    undo = [_swap(decoder, name, layer) for name, layer in layers.items()]
    return Trainable(layers, [*undo, *_make_lean(decoder)])


def _plain(decoder: DiT, name: str) -> nn.Linear:
    layer = decoder.get_submodule(name)
    if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
        raise ValueError(f"{name} is a {type(layer).__name__}, expected a plain linear layer that is not quantised")
    return layer


def _check(decoder: DiT, kind: str, setting: Setting) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if setting.rank < 1 or setting.alpha <= 0:
        raise ValueError(f"rank and alpha must be above 0, got {setting.rank} and {setting.alpha:g}")
    if not 0 <= setting.dropout < 1:
        raise ValueError(f"dropout: expected 0 up to 1, got {setting.dropout:g}")
    if setting.factor != -1 and setting.factor < 1:
        raise ValueError(f"factor: expected -1 or at least 1, got {setting.factor}")
    if torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in decoder.parameters()):
        raise ValueError("a decoder in inference mode cannot be trained: build it under torch.inference_mode(False)")
    if any(isinstance(module, Trained) for module in decoder.modules()):
        raise ValueError("there are trained layers in this decoder already: remove them first")


def _make_lean(decoder: DiT) -> Iterator[Callable[[], None]]:
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.RMSNorm):
            yield _swap(decoder, name, LeanNorm(module))
        elif isinstance(module, FeedForward):
            yield _swap(decoder, name, LeanFeedForward(module))


def _swap(decoder: DiT, name: str, new: nn.Module) -> Callable[[], None]:
    """Put a layer in the place of another; gives what puts it back."""
    parent = decoder.get_submodule(name.rpartition(".")[0])
    last = name.rpartition(".")[2]
    old = parent.get_submodule(last)
    setattr(parent, last, new)
    return lambda: setattr(parent, last, old)


def _own(layer: Trained) -> Iterator[tuple[str, nn.Parameter]]:
    """What is trained of a layer."""
    return ((name, value) for name, value in layer.named_parameters() if name not in ("weight", "bias"))


def _copied(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32, copy=True)
