"""What Load DiT and Load LM give out, of the real size: networks of the host's layers over weights already in memory.

    model, conditioner, vae = hold(pack, states, "2b", torch.bfloat16)

`states` are part -> tensors under our names, as `real_size.random_parts` makes them; nothing is copied, so another
implementation may read the same ones. A `Form` keeps the large matrices in fewer bits, as a quantised file would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from real_size import FAMILIES, OTHERS, PLANNERS
from torch import Tensor

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
    """How a file keeps a matrix [out, in]: what it becomes in the file, and the scale beside it, if there is one."""

    name: str
    stored: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None


def scaled_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """fp8 (e4m3) with one scale for all of it, as the host's scaled fp8 files are."""
    scale = weight.float().abs().amax() / LARGEST_FP8
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


FORMS = (Form("int8", lambda weight: (weight, None)), Form("fp8", scaled_fp8))
WHOLE = Form("as it is")


def fill(pack: Pack, module: Any, part: str, state: State, form: Form, dtype: torch.dtype) -> Any:
    """The module on meta with its weights; those that the pack would pack, in the given form."""
    numbers = state
    if form.stored is not None:
        packed, host = pack("acestep_models.loading.packed"), pack("nodes.host.packed")
        role = "lm" if part in PLANNERS else part
        packed.pack_layers(module, role, packed.Packing(host.HostPackedLinear, dtype))
        numbers = {}
        for name, value in state.items():
            layer = name.removesuffix(".weight")
            wanted = packed.is_packed(role, layer)
            numbers |= packed.pack_weight(layer, *form.stored(value)) if wanted else {name: value}
    module.load_state_dict(numbers, strict=True, assign=True)
    return module.eval().requires_grad_(False)


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
    return pack("nodes.host.runtime").handle(module, dtype, place, rest, disable_dynamic=form.stored is not None)


def hold_model(
    pack: Pack, state: State, family: str, dtype: torch.dtype, device: str = "cpu", form: Form = WHOLE
) -> Any:
    """The turbo decoder as a MODEL."""
    import comfy.patcher_extension

    model = pack("nodes.host.models").SongModel(config_of(pack, "decoder", family), "turbo", dtype, dtype)
    fill(pack, model.diffusion_model.decoder, "decoder", state, form, dtype)
    place, rest = torch.device(device), torch.device("cpu")
    owner = pack("nodes.host.runtime").patcher(model.eval().to(rest), place, rest, form.stored is not None)
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
        graphs=pack("acestep_models.planner.graph").Graphs(),
    )


def bytes_of(module: Any) -> int:
    """What the numbers of a network take."""
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))
