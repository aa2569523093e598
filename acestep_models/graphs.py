"""CUDA graphs of a step that is done many times: hundreds of small kernels become one launch (spec/perf.md §4).

A graph is recorded again whenever a buffer or a size changes. Whatever goes wrong while recording, the step is done
the plain way from then on: the recording has changed nothing that the step reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import torch

LOG = logging.getLogger(__name__)

Step = Callable[[], None]


class Recording(Protocol):
    """A recorded step."""

    def replay(self) -> None:
        """Do the step again on the same memory."""


@dataclass(eq=False)
class Graphs:
    """Whether the steps of one network may be recorded, and how; it lives and dies with whoever holds the network.

    `name` is what the log calls the step, `record` takes the place of `record_cuda` in tests. `failed` says why no more
    recordings are tried; empty as long as none went wrong. All are made on one stream for each card, as torch keeps a
    workspace for every stream that was ever multiplied on.
    """

    record: Callable[[Step], Recording] | None = None
    devices: tuple[str, ...] = ("cuda",)
    failed: str = ""
    name: str = "A step"
    _streams: dict[int, torch.cuda.Stream] = field(init=False, repr=False, default_factory=dict)

    def work_on(self, device: torch.device) -> bool:
        """Whether a step on `device` is worth a try."""
        return device.type in self.devices and not self.failed

    def capture(self, step: Step, beside: Recording | None = None) -> Recording:
        """Record `step`, which is not carried out, in the memory of the recording `beside` if there is one.

        Raises:
            RuntimeError: if it cannot be recorded.
        """
        if self.record is not None:
            return self.record(step)
        card = torch.cuda.current_device()
        if card not in self._streams:
            self._streams[card] = torch.cuda.Stream()
        pool = beside.pool() if isinstance(beside, torch.cuda.CUDAGraph) else None
        return record_cuda(step, self._streams[card], pool)


class Recorder:
    """The steps of one run: the first one of a kind is done plainly and then recorded, the others are replayed.

    The recordings of the last `most` kinds are kept. They share their memory, as no two are replayed at once: what is
    read after a step must lie in tensors that were made outside of it. `given_up` says that there was no room for one.
    """

    def __init__(self, graphs: Graphs, most: int = 1) -> None:
        self._graphs, self._most = graphs, most
        self._recordings: dict[Hashable, Recording] = {}
        self.given_up = False

    def works_on(self, device: torch.device) -> bool:
        """Whether a step on `device` is worth a try in this run."""
        return self._graphs.work_on(device) and not self.given_up

    def run(self, kind: Hashable, step: Step) -> None:
        """Do one step. Steps of one `kind` must work on the same tensors, which hold all that changes."""
        if (known := self._recordings.get(kind)) is not None:
            known.replay()
            return
        while len(self._recordings) >= self._most:  # gives its memory back before the next one takes some
            del self._recordings[next(iter(self._recordings))]
        step()
        if not (self.given_up or self._graphs.failed):
            self._record(kind, step)

    def _record(self, kind: Hashable, step: Step) -> None:
        name, beside = self._graphs.name, next(iter(self._recordings.values()), None)
        try:
            self._recordings[kind] = self._graphs.capture(step, beside)
        except torch.cuda.OutOfMemoryError as error:  # another run may have more
            self.given_up = True
            LOG.warning("Too little memory to record %s as a CUDA graph; this run goes on without: %s", name, error)
        except RuntimeError as error:
            self._graphs.failed = str(error)
            LOG.warning("%s could not be recorded as a CUDA graph; it goes on without: %s", name, error)
        else:
            return
        self._recordings.clear()  # with the memory that they share


def record_cuda(step: Step, stream: torch.cuda.Stream | None = None, pool: Any = None) -> torch.cuda.CUDAGraph:
    """Record `step`, which is not carried out, on `stream` and in the memory `pool` of another recording on it.

    Raises:
        RuntimeError: if it cannot be recorded. Whatever is raised, the device is usable again then.
    """
    graph, stream = torch.cuda.CUDAGraph(), stream or torch.cuda.Stream()
    # A recording has memory of its own, and while it is made nothing that lies unused elsewhere can be given back.
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    stream.wait_stream(torch.cuda.current_stream())
    done = False
    try:
        with torch.cuda.stream(stream), _Recording(graph, pool):
            step()
        done = True
    finally:
        if not done:  # for a cancel too, which the host raises within layers
            _recover(graph, stream)
    torch.cuda.current_stream().wait_stream(stream)
    return graph


class _Recording:
    """Begin and end of a capture; an error inside it comes out unchanged, even where the end fails because of it.

    "thread_local": what other threads of the host do with the device meanwhile does no harm.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, pool: Any = None) -> None:
        self._graph, self._pool = graph, pool

    def __enter__(self) -> None:
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def __exit__(self, kind: type[BaseException] | None, *how: BaseException | TracebackType | None) -> None:
        if kind is None:
            self._graph.capture_end()
            return
        with suppress(RuntimeError):
            self._graph.capture_end()


def _recover(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
    """Leave nothing of a failed capture behind (spec/planner.md §9).

    torch may go on thinking that its random generator is being captured; a capture that ends well puts that right.
    """
    torch.cuda.synchronize()
    with suppress(RuntimeError):
        graph.reset()
    with suppress(RuntimeError), torch.cuda.stream(stream), _Recording(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
