"""What a run needs of its surroundings: progress, cancelling, and a place for each network.

The core never moves a network or asks whether it was cancelled by any other way. Inside ComfyUI the
host adapter implements `Runtime`; everywhere else `PlainRuntime` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from .errors import Cancelled

UNKNOWN_BYTES = 1 << 50  # more than anybody has: nothing is made smaller for it

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Handle(Generic[M]):
    """A network together with who keeps it in memory.

    `dtype` is what it computes in (its weights may be stored in another); `owner` belongs to the runtime
    (ComfyUI's ModelPatcher), None means that the module lies where it is.
    """

    module: M
    dtype: torch.dtype
    owner: Any = None


class Runtime(Protocol):
    """The surroundings of a run."""

    def progress(self, done: int, total: int) -> None:
        """Report `done` of `total` equal pieces of work."""

    def say(self, text: str) -> None:
        """Show one line about the running work, such as speed and time left; the last one counts."""

    def check_cancelled(self) -> None:
        """Raise the host's or our own cancel exception if the user asked to stop."""

    def place(self, handle: Handle[M], reserve_bytes: int = 0) -> M:
        """Make the network ready to compute with `reserve_bytes` of room left for activations."""

    def device(self, handle: Handle[Any]) -> torch.device:
        """The device on which the network's inputs are expected."""

    def free_bytes(self, handle: Handle[Any]) -> int:
        """How much memory is free now on the device where the network computes, `UNKNOWN_BYTES` where nobody knows."""

    def loaded_share(self, handle: Handle[Any]) -> float:
        """How much of a placed network's weights lies on its device, 0 to 1; the rest is fetched at each use."""


@dataclass(frozen=True, eq=False)
class PartRuntime:
    """The surroundings of part `index` (from 0) of `count` equal parts of a run: progress goes on over all of them."""

    whole: Runtime
    index: int
    count: int

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` pieces of this part, as pieces of the whole run."""
        self.whole.progress(*self.stretch(done, total))

    def stretch(self, done: int, total: int) -> tuple[int, int]:
        """(pieces done, all pieces) of the whole run."""
        return self.index * total + done, self.count * total

    def say(self, text: str) -> None:
        """See `Runtime.say`."""
        self.whole.say(text)

    def check_cancelled(self) -> None:
        """See `Runtime.check_cancelled`."""
        self.whole.check_cancelled()

    def place(self, handle: Handle[M], reserve_bytes: int = 0) -> M:
        """See `Runtime.place`."""
        return self.whole.place(handle, reserve_bytes)

    def device(self, handle: Handle[Any]) -> torch.device:
        """See `Runtime.device`."""
        return self.whole.device(handle)

    def free_bytes(self, handle: Handle[Any]) -> int:
        """See `Runtime.free_bytes`."""
        return self.whole.free_bytes(handle)

    def loaded_share(self, handle: Handle[Any]) -> float:
        """See `Runtime.loaded_share`."""
        return self.whole.loaded_share(handle)


class PlainRuntime:
    """Runs everything on one device; remembers the last progress pair; cancels when told to."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        self.last_progress: tuple[int, int] | None = None
        self.last_words = ""
        self.cancel = False

    def progress(self, done: int, total: int) -> None:
        """Keep the pair for whoever asks."""
        self.last_progress = (done, total)

    def say(self, text: str) -> None:
        """Keep the line for whoever asks."""
        self.last_words = text

    def check_cancelled(self) -> None:
        """Raise `Cancelled` once `cancel` is set."""
        if self.cancel:
            raise Cancelled("the run was cancelled")

    def place(self, handle: Handle[M], reserve_bytes: int = 0) -> M:
        """The module, moved to this runtime's device."""
        return handle.module.to(self._device)

    def device(self, handle: Handle[Any]) -> torch.device:
        """This runtime's device."""
        return self._device

    def free_bytes(self, handle: Handle[Any]) -> int:
        """What a card says beside torch's own cache; of the main memory torch knows nothing."""
        if self._device.type != "cuda":
            return UNKNOWN_BYTES
        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0] + cached)

    def loaded_share(self, handle: Handle[Any]) -> float:
        """Everything, always."""
        return 1.0
