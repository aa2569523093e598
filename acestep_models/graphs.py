"""CUDA graphs of a step that is done many times: hundreds of small kernels become one launch (spec/perf.md §4).

A graph is recorded again whenever a buffer or a size changes. Whatever goes wrong while recording, the step is done
the plain way from then on: the recording has changed nothing that the step reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

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
    recordings are tried; empty as long as none went wrong.
    """

    record: Callable[[Step], Recording] | None = None
    devices: tuple[str, ...] = ("cuda",)
    failed: str = ""
    name: str = "A step"

    def work_on(self, device: torch.device) -> bool:
        """Whether a step on `device` is worth a try."""
        return device.type in self.devices and not self.failed


class Recorder:
    """The steps of one run: the first one of a kind is done plainly and then recorded, the others are replayed."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._kind: Hashable = None
        self._recording: Recording | None = None

    def run(self, kind: Hashable, step: Step) -> None:
        """Do one step. Steps of one `kind` must work on the same tensors, which hold all that changes."""
        if self._recording is not None and kind == self._kind:
            self._recording.replay()
            return
        self._recording = None  # gives its memory back before the next one takes some
        step()
        record = self._graphs.record or record_cuda
        try:
            self._recording = record(step)
        except RuntimeError as error:
            self._graphs.failed = str(error)
            LOG.warning("%s could not be recorded as a CUDA graph; it goes on without: %s", self._graphs.name, error)
            return
        self._kind = kind


def record_cuda(step: Step) -> torch.cuda.CUDAGraph:
    """Record `step`, which is not carried out.

    Raises:
        RuntimeError: if it cannot be recorded. The device is usable again then.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream), _Recording(graph):
            step()
    except RuntimeError:
        _recover(graph)
        raise
    torch.cuda.current_stream().wait_stream(stream)
    return graph


class _Recording:
    """Begin and end of a capture; an error inside it comes out unchanged, even where the end fails because of it.

    "thread_local": what other threads of the host do with the device meanwhile does no harm.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def __enter__(self) -> None:
        self._graph.capture_begin(capture_error_mode="thread_local")

    def __exit__(self, kind: type[BaseException] | None, *how: BaseException | TracebackType | None) -> None:
        if kind is None:
            self._graph.capture_end()
            return
        with suppress(RuntimeError):
            self._graph.capture_end()


def _recover(graph: torch.cuda.CUDAGraph) -> None:
    """Leave nothing of a failed capture behind (spec/planner.md §9).

    torch may go on thinking that its random generator is being captured; a capture that ends well puts that right.
    """
    torch.cuda.synchronize()
    with suppress(RuntimeError):
        graph.reset()
    with suppress(RuntimeError), torch.cuda.stream(torch.cuda.Stream()), _Recording(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
