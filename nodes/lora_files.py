"""Inputs of the nodes that write LoRAs, and what they do alike: read by name, fit to a rank, write, say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..acestep_models.adapters.change import resize
from ..acestep_models.adapters.files import Adapter
from ..acestep_models.adapters.write import FAMILIES
from .host import loras, save_lora
from .host.runtime import HostRuntime
from .host.schema import io, out, report, socket
from .lora_inputs import NONE, given_alpha
from .lora_made import MADE
from .lora_report import describe_adapter
from .lora_summary import summary
from .types import Word
from .widgets import AUTO_NUMBER, answer, one_of

MAX_RANK = 1024
SINGLE, KOHYA = "single", "kohya"
DORA_ELSEWHERE = (
    "a DoRA plays right in Apply LoRA and PEFT; ComfyUI's own loader takes the lengths before the change, so it "
    "differs there"
)


def family_input() -> Any:
    """How the new file names things."""
    return socket(
        io.Combo,
        "family",
        options=sorted(FAMILIES, key=lambda family: family != SINGLE),
        default=SINGLE,
        tooltip="Who shall read it. single: ComfyUI, one file with every alpha in it. peft: a folder for PEFT and "
        "ACE-Step's own programs. kohya: one file with flattened names. diffusers: one file for diffusers. In single "
        f"and kohya {DORA_ELSEWHERE}.",
    )


def name_input(default: str) -> Any:
    """What the new file is called."""
    return socket(
        io.String,
        "name",
        default=default,
        tooltip="Of the new file in ComfyUI's loras folder, without an ending. A number is added, and nothing that is "
        "there is replaced.",
    )


def rank_input() -> Any:
    """The rank of the new file."""
    return socket(
        io.Int,
        "rank",
        default=0,
        min=0,
        max=MAX_RANK,
        tooltip="A rank to bring it to. A smaller one makes a smaller file without what matters least, and the node "
        "says how much that is. 0 = as it is, exactly.",
    )


def saved_outputs() -> list[Any]:
    """What nodes that write an adapter give out."""
    return [out(Word, "lora", "Its name in the list of Apply LoRA, to be wired into that, or into a text.")]


def check_entries(name: Any = None, family: Any = None, alpha: Any = None, **entries: Any) -> bool | str:
    """The answer of `validate_inputs` for a new file, and for entries by their inputs; what is linked is None."""

    def check() -> None:
        for where, entry in entries.items():
            if entry not in (None, NONE):
                loras.lora_path(entry, where)
        check_request(name, family)
        given_alpha(alpha)

    return answer(check)


def check_request(name: str | None, family: str | None) -> None:
    """Raises a ValueError for a name or a family that cannot be, before the long work; None is not known yet."""
    if name is not None:
        save_lora.check_name(name)
    if family is not None:
        one_of("family", family, tuple(FAMILIES))


def stamps(*entries: Any) -> str:
    """Changes when a file of any entry does; none and what is linked have no file."""
    return "|".join(loras.lora_stamp(entry) for entry in entries if entry not in (None, NONE))


def read(entry: str, alpha: float = AUTO_NUMBER, where: str = "lora") -> Adapter:
    """The adapter of an entry that the input `where` names."""
    loras.lora_path(entry, where)
    return loras.load_lora(entry, given_alpha(alpha))


def fitted(adapter: Adapter, rank: int) -> Adapter:
    """The adapter at a rank; its notes say what that cost. 0 leaves it as it is."""
    return resize(adapter, rank, HostRuntime())[0] if rank else adapter


def request_stamp(node: str, values: Mapping[str, Any], *entries: Any) -> str:
    """Changes with the inputs of a node that writes, with the files of its entries, and when its own was deleted."""
    return f"{stamps(*entries)}|{sorted(values.items())}|{MADE.gone(node, values)}"


def saved(adapter: Adapter, node: str, values: Mapping[str, Any], *lines: str) -> io.NodeOutput:
    """Write it as the `values` of a node's inputs say, and say where and what it is."""
    name, family = values["name"], values["family"]
    path = save_lora.save_lora(adapter, name, family)
    MADE.add(node, values, path)
    entry = save_lora.entry_name(path)
    new = replace(adapter, facts=replace(adapter.facts, family=family))
    text = (f"saved: {save_lora.shown(path)}", *lines, *describe_adapter(entry, new), *summary(adapter))
    return io.NodeOutput(entry, ui=report(*text, *_warnings(adapter, family)))


def guesses(chosen: Iterable[tuple[str, float]], adapters: Iterable[Adapter]) -> tuple[str, ...]:
    """Of entries with their strengths, those whose part of a sum was only guessed."""
    return tuple(
        f"warning: {entry} says no alpha and none was given: its part is a guess"
        for (entry, strength), adapter in zip(chosen, adapters, strict=True)
        if strength and adapter.facts.alpha_guessed
    )


def _warnings(adapter: Adapter, family: str) -> tuple[str, ...]:
    """What plays otherwise elsewhere, or was only guessed."""
    kinds = {delta.kind for delta in adapter.deltas.values()}
    dora = (DORA_ELSEWHERE,) if "dora" in kinds and family in (SINGLE, KOHYA) else ()
    guessed = ("warning: written with a guessed strength, and the new file says so: give alpha if you know it",)
    return (*dora, *(guessed if adapter.facts.alpha_guessed else ()))
