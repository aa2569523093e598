"""ComfyUI's node API, less what this host's version does not know yet.

An unknown argument would be a TypeError that takes the node and all nodes after it from the list
(spec/host.md §1), so schemas and sockets are built through `schema`, `socket` and `out`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import ComfyExtension, io

__all__ = ["AUTO", "KEEP_SEED", "ComfyExtension", "first_few", "io", "out", "report", "schema", "socket"]

MOST_LISTED = 8
CATEGORY = "audio/ACE-Step 1.5"
AUTO = "auto"  # the option that leaves a choice to the node
# A seed that stays as it is after a run; where the host cannot say so, the user can.
KEEP_SEED: Any = getattr(getattr(io, "ControlAfterGenerate", None), "fixed", True)


def _known(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}


def schema(**fields: Any) -> io.Schema:
    """A node's schema in the pack's category, without the fields that this host lacks."""
    known = io.Schema.__dataclass_fields__
    fields = {"category": CATEGORY, "has_intermediate_output": True, **fields}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def socket(kind: Any, name: str, **options: Any) -> Any:
    """The input `name` of type `kind`, without the options that this host lacks."""
    return kind.Input(name, **_known(kind.Input.__init__, options))


def out(kind: Any, name: str, tooltip: str, is_list: bool = False) -> Any:
    """An output; its id differs from every input's, because old hosts want that. A list goes on one by one."""
    return kind.Output(f"{name}_out", display_name=name, tooltip=tooltip, is_output_list=is_list)


def report(*lines: str) -> dict[str, tuple[str]]:
    """What a node shows under itself when it has run: the values it really used."""
    return {"text": ("\n".join(line for line in lines if line),)}


def first_few(texts: Sequence[str]) -> str:
    """A list as a report shows it: the first 8, and how many more there are."""
    more = f" and {len(texts) - MOST_LISTED} more" if len(texts) > MOST_LISTED else ""
    return ", ".join(texts[:MOST_LISTED]) + more
