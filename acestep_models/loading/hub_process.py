"""Starts the hub client's process, watches it, and turns what it says into errors with a remedy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..errors import ACEStepError

SCRIPT = Path(__file__).with_name("hub_client.py")
TICK_SECONDS = 0.1
DEFAULTS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # where the user has set nothing

BY_HAND = "or fetch the file by hand and put it into ComfyUI's models folder (README, Models)"
REMEDIES: dict[str, tuple[str, str]] = {
    "offline": (
        "the hub client is set to offline (HF_HUB_OFFLINE), and its cache does not have the file",
        f"Unset HF_HUB_OFFLINE and restart ComfyUI, {BY_HAND}",
    ),
    "timeout": (
        "the server did not answer in time",
        "Run again, it goes on where it stopped; on a slow line set HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT "
        "(seconds) higher, or HF_ENDPOINT to a mirror",
    ),
    "network": (
        "the connection failed or was cut",
        "Check network, proxy and HF_ENDPOINT, then run again: it goes on where it stopped",
    ),
    "disk": (
        "the disk is full, or your share of it",
        "Make room and run again: it goes on where it stopped",
    ),
    "damaged": (
        "what arrived has not the size that the hub promised",
        "Run again; if it stays, the mirror or a proxy changes files: unset HF_ENDPOINT",
    ),
    "client": (
        "the package huggingface_hub, which comes with ComfyUI's requirements, does not load",
        f"Install it into ComfyUI's Python (python -m pip install huggingface_hub), {BY_HAND}",
    ),
    "other": ("the download failed", f"Run again, {BY_HAND}"),
}
STATUS: dict[int, tuple[str, str]] = {
    401: (
        "there is no such repository, or it is private",
        "If it is private, log in (`hf auth login`) or set HF_TOKEN; else update the node pack, " + BY_HAND,
    ),
    403: (
        "access is denied: the repository is gated, or your token may not read it",
        "Open its page at Hugging Face, accept the terms, then log in (`hf auth login`) or set HF_TOKEN",
    ),
    404: (
        "it is not there",
        f"Repositories move: update the node pack, check HF_ENDPOINT if you use a mirror, {BY_HAND}",
    ),
}
BUSY = ("the server has trouble of its own", "Wait a while, or set HF_ENDPOINT to a mirror, then run again")


class HubError(ACEStepError):
    """The hub or the way to it failed; `missing` where what was asked for is not there (another source may have it)."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


def ask(request: dict[str, Any], what: str, watch: Callable[[], None]) -> Any:
    """The client's answer to a request; `watch` is called ten times a second and may raise, which ends the process.

    Raises:
        HubError: names `what` was asked for, what went wrong, and the remedy.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        try:
            process = _start(request, out, log)
        except OSError as error:
            raise _error(what, {"kind": "client", "detail": f"{sys.executable}: {error}"}) from error
        try:
            _wait(process, watch)
        finally:
            process.kill()
            process.communicate()  # waits, and closes the pipe
        out.seek(0)
        log.seek(0)
        lines = out.read().decode(errors="replace").strip().splitlines()
        if not lines:
            tail = log.read().decode(errors="replace").strip()[-500:]
            raise HubError(f"{what}: the download process ended without an answer ({tail}). Run again, {BY_HAND}.")
    reply = json.loads(lines[-1])
    if "error" in reply:
        raise _error(what, reply["error"])
    return reply["ok"]


def _start(request: dict[str, Any], out: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
    line = json.dumps({**request, "sys_path": sys.path}) + "\n"
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=log,
        env=DEFAULTS | os.environ,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would flash a console
    )
    assert process.stdin is not None
    process.stdin.write(line.encode())
    process.stdin.flush()  # left open: when it closes, the client knows that we are gone
    return process


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None]) -> None:
    while True:
        watch()
        try:
            process.wait(timeout=TICK_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def _error(what: str, error: dict[str, Any]) -> HubError:
    status = int(error.get("status") or 0)
    if status:
        why, remedy = STATUS.get(status, BUSY if status >= 500 or status == 429 else REMEDIES["other"])
        why = f"{why} (HTTP {status})"
    else:
        why, remedy = REMEDIES[error["kind"]]
    missing = status in (401, 404)
    return HubError(
        f"{what}: {why}. {remedy}. (endpoint {endpoint()}; {without_secrets(str(error.get('detail', '')))})", missing
    )


def endpoint() -> str:
    """Where the client asks: the hub, or the mirror of HF_ENDPOINT."""
    return without_secrets(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))


def without_secrets(text: str) -> str:
    """`text` with addresses that carry neither a password nor the signature of a link."""
    return re.sub(r"(https?://)(?:[^/@\s]*@)?([^\s?'\"]*)(?:\?[^\s'\"]*)?", r"\1\2", text)
