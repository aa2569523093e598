"""What Load DiT and Load LM give out, of the real size: networks of the host's layers over weights already in memory.

    model, conditioner, vae = hold(pack, states, "2b", torch.bfloat16)

`states` are part -> tensors under our names, as `real_size.random_parts` makes them; nothing is copied, so another
implementation may read the same ones. A `Form` keeps the large matrices in fewer bits, as a quantised file would.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from real_size import FAMILIES, OTHERS, PLANNERS
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {
    "condition": "acestep_models.dit.condition.ConditionEncoder",
    "tokenizer": "acestep_models.dit.codes.AudioTokenizer",
    "detokenizer": "acestep_models.dit.codes.AudioDetokenizer",
    "text_encoder": "acestep_models.qwen3.model.Qwen3",
    "vae": "acestep_models.vae.oobleck.Oobleck",
    "lm_06b": "acestep_models.qwen3.model.Qwen3",
    "lm_17b": "acestep_models.qwen3.model.Qwen3",
    "lm_4b": "acestep_models.qwen3.model.Qwen3",
}
SILENT_FRAMES = 15_000
LARGEST_FP8 = 448.0
CODE_BASE, IM_END = 151_669, 151_645

Pack = Callable[[str], Any]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """How a file keeps a matrix [out, in].

    Attributes:
        name: as a report says it.
        stored: what the matrix becomes in the file, and the scale beside it, if there is one.
        gguf: in place of that, what a GGUF file is said to be quantised to, such as Q4_K_M.
    """

    name: str
    stored: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None
    gguf: str = ""

    @property
    def packs(self) -> bool:
        """Whether matrices are anything but what they are computed in."""
        return bool(self.stored or self.gguf)


def scaled_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """fp8 (e4m3) with one scale for all of it, as the host's scaled fp8 files are."""
    scale = weight.float().abs().amax() / LARGEST_FP8
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


FORMS = (
    Form("int8", lambda weight: (weight, None)),
    Form("fp8", scaled_fp8),
    Form("Q8_0", gguf="Q8_0"),
    Form("Q6_K", gguf="Q6_K"),
    Form("Q4_K_M", gguf="Q4_K_M"),
)
WHOLE = Form("as it is")


def fill(pack: Pack, module: Any, part: str, state: State, form: Form, dtype: torch.dtype) -> Any:
    """The module on meta with its weights; those that the pack would pack, in the given form."""
    numbers = state
    if form.packs:
        packed, host = pack("acestep_models.loading.packed"), pack("nodes.host.packed")
        role = "lm" if part in PLANNERS else part
        packing = packed.Packing(host.HostPackedLinear, dtype, not form.gguf, host.HostBlockLinear)
        layers = [
            name.removesuffix(".weight") for name in state if packed.is_packed(role, name.removesuffix(".weight"))
        ]
        blocks = {layer: ggufs().kind_of(f"{layer}.weight", form.gguf) for layer in layers} if form.gguf else {}
        packed.pack_layers(module, role, packing, blocks)
        numbers = dict(state)
        for layer in layers:
            weight = numbers.pop(f"{layer}.weight")
            if layer in blocks:
                numbers[f"{layer}.weight"] = in_blocks(weight, blocks[layer])
            elif form.stored is not None:
                numbers |= packed.pack_weight(layer, *form.stored(weight))
    module.load_state_dict(numbers, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def ggufs() -> Any:
    """The tests' writer of GGUF files, which needs the gguf package."""
    oracles = str(ROOT / "tests" / "oracles")
    if oracles not in sys.path:
        sys.path.append(oracles)
    return importlib.import_module("ggufs")


def in_blocks(weight: Tensor, kind: str) -> Tensor:
    """A matrix [out, in] as the bytes [out, bytes of a row] of a GGUF file."""
    writer = ggufs()
    return torch.from_numpy(writer.quantise(weight.float().numpy(), writer.KIND[kind]))


def config_of(pack: Pack, part: str, family: str) -> Any:
    """The configuration of a part as the pack's own class, which is another one than ours by its name."""
    given = {**OTHERS, **PLANNERS}.get(part)
    if given is None:
        return pack("acestep_models.dit.config").DiTConfig(**vars(FAMILIES[family]))
    where = "acestep_models.vae.config" if part == "vae" else "acestep_models.qwen3.config"
    return getattr(pack(where), type(given).__name__)(**vars(given))


def hold_part(
    pack: Pack, part: str, state: State, family: str, dtype: torch.dtype, device: str = "cpu", form: Form = WHOLE
) -> Any:
    """The handle of one network under the host's memory manager."""
    where, _, kind = CLASSES[part].rpartition(".")
    ops = pack("nodes.host.ops").casting_ops()
    module = getattr(pack(where), kind)(config_of(pack, part, family), ops, device="meta", dtype=dtype)
    module = fill(pack, module, part, state, form, dtype)
    place, rest = torch.device(device), torch.device("cpu")
    return pack("nodes.host.runtime").handle(module, dtype, place, rest, disable_dynamic=form.packs)


def hold_model(
    pack: Pack, state: State, family: str, dtype: torch.dtype, device: str = "cpu", form: Form = WHOLE
) -> Any:
    """The turbo decoder as a MODEL."""
    import comfy.patcher_extension

    model = pack("nodes.host.models").SongModel(config_of(pack, "decoder", family), "turbo", dtype, dtype)
    fill(pack, model.diffusion_model.decoder, "decoder", state, form, dtype)
    place, rest = torch.device(device), torch.device("cpu")
    owner = pack("nodes.host.runtime").patcher(model.eval().to(rest), place, rest, form.packs)
    counted = pack("nodes.host.packed").count_patched
    owner.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, counted)
    pack("nodes.host.keep").keep_closed(owner)
    return owner


def hold(
    pack: Pack,
    states: dict[str, State],
    family: str,
    dtype: torch.dtype,
    device: str = "cpu",
    form: Form = WHOLE,
) -> tuple[Any, Any, Any]:
    """MODEL, conditioner and VAE. Words become tokens by the tokenizer that the host ships, silence is random."""

    def part(name: str, kept: Form = form) -> Any:
        return hold_part(pack, name, states[name], family, dtype, device, kept)

    conditioner = pack("acestep_models.pipelines.encode").ConditionerModels(
        text=part("text_encoder"),
        tokenizer=tokenizer(pack),
        condition=part("condition"),
        code_tokenizer=part("tokenizer", WHOLE),
        detokenizer=part("detokenizer"),
        silence=pack("acestep_models.dit.silence").Silence(silence()),
        config=config_of(pack, "decoder", family),
        variant="turbo",
    )
    return hold_model(pack, states["decoder"], family, dtype, device, form), conditioner, part("vae", WHOLE)


def tokenizer(pack: Pack) -> Any:
    """The host's Qwen tokenizer."""
    folder = pack("nodes.host.folders").host_tokenizer()
    return pack("acestep_models.qwen3.tokenizer").Tokenizer.from_source(folder)


def silence() -> Tensor:
    """Random frames [15000, 64] in the place of silence."""
    return torch.randn(SILENT_FRAMES, 64, generator=torch.Generator().manual_seed(2))


def hold_planner(pack: Pack, part: str, state: State, dtype: torch.dtype, form: Form = WHOLE) -> Any:
    """The LM as a node holds it; of its vocabulary only the two ids that codes need."""
    return SimpleNamespace(
        model=hold_part(pack, part, state, "2b", dtype, form=form),
        name="random",
        vocabulary=SimpleNamespace(code_base=CODE_BASE, im_end=IM_END),
        graphs=pack("acestep_models.graphs").Graphs(),
    )


def bytes_of(module: Any) -> int:
    """What the numbers of a network take."""
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))
