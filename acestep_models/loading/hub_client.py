"""The script that runs the real huggingface_hub client, in a process of its own.

A process, because a download must stop within a moment of Cancel, whatever the client waits for, and because the client
reads HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN only while it is imported. It reads one line of JSON from its
standard input, answers with one on its standard output, and dies with the process that started it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HASHES = {64: "sha256", 40: "sha1"}  # how the hub's cache and etags name LFS files and small files
RETRY_SECONDS = 1.0
DETAIL = 300  # characters of the innermost error
NETWORK = r"ConnectionError|ConnectError|ConnectTimeout|SSLError|ProxyError|ProtocolError|ChunkedEncoding|ReadError"


def main() -> None:
    """Answer the one question."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.path[:] = request["sys_path"]  # the script's own folder would hide packages that are called like our modules
    reply: dict[str, Any]
    try:
        reply = {"ok": list_repo(request) if request["task"] == "list" else download(request)}
    except ImportError as error:
        reply = {"error": {"kind": "client", "detail": str(error)}}
    except _failures() as error:
        reply = {"error": explain(error)}
    print(json.dumps(reply), flush=True)


def _die_with_parent() -> None:
    """The pipe closes when the parent ends, however it ends."""
    sys.stdin.read()
    os._exit(1)


def _failures() -> tuple[type[BaseException], ...]:
    """What the client raises: requests' errors are OSErrors; newer clients use httpx, whose errors are not."""
    kinds: list[type[BaseException]] = [OSError, RuntimeError, ValueError]
    packages: list[Any] = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return (*kinds, *(package.HTTPError for package in packages))


def list_repo(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Every file of a repository with size, hash and commit; offline, what the client's cache has of it."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        info = HfApi().model_info(request["repo"], files_metadata=True, timeout=float(constants.HF_HUB_ETAG_TIMEOUT))
    except OfflineModeIsEnabled:
        cached = _snapshot(request["repo"])
        if cached is None:
            raise
        return [_cached_file(cached, path) for path in sorted(cached.rglob("*")) if path.is_file()]
    return [
        {
            "path": file.rfilename,
            "bytes": file.size,
            "sha256": file.lfs.sha256 if file.lfs else None,
            "sha1": None if file.lfs else file.blob_id,
            "commit": info.sha,
        }
        for file in info.siblings or ()
    ]


def _snapshot(repo: str) -> Path | None:
    """The newest copy of the repository in the client's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _cached_file(folder: Path, path: Path) -> dict[str, Any]:
    """The cache calls its blobs by their hashes."""
    blob = path.resolve().name
    kind = HASHES.get(len(blob)) if re.fullmatch("[0-9a-f]+", blob) else None
    known = {"sha256": None, "sha1": None} | ({kind: blob} if kind else {})
    name = path.relative_to(folder).as_posix()
    return {"path": name, "bytes": path.stat().st_size, "commit": folder.name, **known}


def download(request: dict[str, Any]) -> int:
    """One file into the partial file `part`; goes on where an earlier attempt stopped, while attempts bring something.

    Not through `hf_hub_download`: since 1.x it begins again at zero when a process ended. This is the same client one
    layer below, with its sessions, proxies, retries and tokens; we only keep the partial file.
    """
    part = Path(request["part"])
    if (cached := _in_cache(request)) is not None:
        return Path(shutil.copyfile(cached, part)).stat().st_size
    before = 0
    while True:
        try:
            return _stream(request, part)
        except _failures() as error:
            now = part.stat().st_size if part.exists() else 0
            if explain(error)["kind"] not in ("network", "timeout") or now <= before:
                raise
            before = now
            time.sleep(RETRY_SECONDS)


def _in_cache(request: dict[str, Any]) -> str | None:
    """The file's copy in the client's own cache, at the very commit."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(request["repo"], request["path"], revision=request["commit"])
    return found if isinstance(found, str) else None


def _stream(request: dict[str, Any], part: Path) -> int:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not in its __all__

    url = hf_hub_url(request["repo"], request["path"], revision=request["commit"])
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a packed answer could not be taken up midway
    size = request["bytes"]
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()
    with part.open("ab") as file:
        http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=size)
    return part.stat().st_size


def explain(error: BaseException) -> dict[str, Any]:
    """Kind, HTTP status and text of an error, looked for along its causes: the client wraps them."""
    chain = list(_causes(error))
    names = " ".join(kind.__name__ for link in chain for kind in type(link).__mro__)
    status = next((code for link in chain if (code := _status(link))), None)
    said = [f"{type(link).__name__}: {text.splitlines()[0][:DETAIL]}" for link in chain if (text := str(link).strip())]
    detail = said[-1] if said else type(error).__name__
    return {"kind": _kind(chain, names, status), "status": status, "detail": detail}


def _kind(chain: list[BaseException], names: str, status: int | None) -> str:
    if "OfflineModeIsEnabled" in names:
        return "offline"
    if status is not None:
        return "status"
    if any(isinstance(link, OSError) and link.errno in (28, 122, 112) for link in chain):  # ENOSPC, EDQUOT, Windows
        return "disk"
    if any("Consistency check failed" in str(link) for link in chain):
        return "damaged"
    if "NewConnectionError" in names:  # urllib3 counts a refused connection among the timeouts
        return "network"
    if "Timeout" in names:
        return "timeout"
    return "network" if re.search(NETWORK, names) else "other"


def _status(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) and code >= 400 else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    main()
