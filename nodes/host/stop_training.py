"""The button "stop and keep": a message to ComfyUI's server ends the running training, which keeps what it learned."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy_execution.utils import get_executing_context

from ...acestep_models.errors import ACEStepError
from .runtime import HostRuntime

ROUTE = "/acestep/training/stop"


class Trainings:
    """The runs that can be stopped, by the node that each runs in."""

    def __init__(self) -> None:
        self._running: dict[str, threading.Event] = {}

    @contextmanager
    def running(self) -> Iterator[threading.Event]:
        """A run of the executing node; the event is set when it shall stop."""
        context = get_executing_context()
        node, event = str(getattr(context, "node_id", "")), threading.Event()
        self._running[node] = event
        try:
            yield event
        finally:
            self._running.pop(node, None)

    def stop(self, node: str | None) -> list[str]:
        """Ask the run of a node to stop, or every run; says which were asked.

        A node inside of a subgraph is known to the page by the last part of its number.
        """
        asked = [name for name in list(self._running) if node in (None, name, name.rpartition(":")[2])]
        events = [self._running.get(name) for name in asked]
        for event in events:
            if event is not None:  # else it has just ended by itself
                event.set()
        return asked


class BeforeTraining(HostRuntime):
    """The surroundings of what comes before the first step: "stop and keep" ends it, for there is nothing to keep."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def check_cancelled(self) -> None:
        """See `HostRuntime.check_cancelled`.

        Raises:
            ACEStepError: once somebody pressed "stop and keep".
        """
        super().check_cancelled()
        if self._stop.is_set():
            raise ACEStepError(
                "stopped before anything was learned; the songs that are encoded are kept, and the same prompt goes on "
                "with the next"
            )


# One for the process: the server's thread has to find the run that the worker's thread is in.
TRAININGS = Trainings()


def add_stop_route() -> None:
    """Add POST /acestep/training/stop to ComfyUI's server; outside of a running one there is nothing to add to."""
    module: Any = sys.modules.get("server")
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if server is None or any(getattr(route, "path", "") == ROUTE for route in server.routes):
        return

    async def stop(request: Any) -> Any:
        status, answer = stop_answer(await request.text())
        return module.web.json_response(answer, status=status)

    server.routes.post(ROUTE)(stop)


def stop_answer(text: str) -> tuple[int, dict[str, Any]]:
    """Status and body for a request whose body is empty or {"node": id}."""
    try:
        told = json.loads(text) if text.strip() else {}
        node = told.get("node")
    except (ValueError, AttributeError):
        return 400, {"error": 'expected nothing, or JSON such as {"node": "7"}'}
    asked = TRAININGS.stop(None if node is None else str(node))
    if not asked:
        return 404, {"error": "nothing is being trained" + (f" in node {node}" if node is not None else "")}
    return 200, {"stopping": asked}
