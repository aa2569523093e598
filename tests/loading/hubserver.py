"""A Hugging Face hub on the loopback interface, for the real huggingface_hub client.

It speaks what the client asks: model info with file metadata, HEAD on resolve (commit, etag, linked size and etag, a
redirect to a storage server of another host name for LFS files), GET with Range. Its faults are switched on per path.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
PIECE = 64 << 10
ERRORS = {401: "RepoNotFound", 403: "GatedRepo", 404: "EntryNotFound"}


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None
    host: str


@dataclass
class Hub:
    """repos[repo][path] = content; faults below; what was asked and how many bytes went out."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    status: dict[str, list[int]] = field(default_factory=dict)  # repo or path -> HTTP statuses of the next answers
    cut: dict[str, list[int]] = field(default_factory=dict)  # path -> the next answers' bodies end after so many bytes
    after_cut: dict[str, int] = field(default_factory=dict)  # path -> HTTP status of the first answer after a cut
    swap: dict[str, bytes] = field(default_factory=dict)  # path -> what is sent in place of the content
    hang: set[str] = field(default_factory=set)  # repos and paths that are never answered
    slow: dict[str, float] = field(default_factory=dict)  # path -> seconds between two pieces
    requests: list[Request] = field(default_factory=list)
    sent: Counter = field(default_factory=Counter)
    port: int = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def add(self, repo, **files):
        for path, content in files.items():
            self.repos.setdefault(repo, {})[path] = content


def is_lfs(path):
    return path.endswith((".safetensors", ".pt"))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        """The test's output stays clean."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        split = urlsplit(self.path)
        path = unquote(split.path)
        self.hub.requests.append(
            Request(
                self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"),
                self.headers.get("Host", "").split(":")[0],
            )
        )  # fmt: skip
        if path.startswith("/api/models/"):
            self._info(path.removeprefix("/api/models/").split("/revision/")[0], parse_qs(split.query))
        elif path.startswith("/cdn/"):
            repo, name = path.removeprefix("/cdn/").split("//")
            self._content(repo, name, body)
        else:
            repo, _, rest = path[1:].partition("/resolve/")
            self._resolve(repo, rest.partition("/")[2], body)

    def _fails(self, *names):
        """Send the fault of a repository or path, if there is one."""
        for name in names:
            if name in self.hub.hang:
                time.sleep(3)
                self.close_connection = True
                return True
            if self.hub.status.get(name):
                self._error(self.hub.status[name].pop(0))
                return True
        return False

    def _error(self, status, code=None):
        self.send_response(status)
        if code or status in ERRORS:
            self.send_header("X-Error-Code", code or ERRORS[status])
        self.send_header("X-Error-Message", f"status {status} of the test")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _info(self, repo, query):
        if self._fails(repo):
            return
        if repo not in self.hub.repos:
            return self._error(401, "RepoNotFound")  # what the hub says to strangers
        files = [self._sibling(path, content) for path, content in self.hub.repos[repo].items()]
        if query.get("blobs") != ["true"] and query.get("blobs") != ["True"]:
            files = [{"rfilename": file["rfilename"]} for file in files]
        reply = json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": files}).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": len(reply)})
        self.wfile.write(reply)

    def _sibling(self, path, content):
        facts = {"rfilename": path, "size": len(content), "blobId": git_sha1(content)}
        if is_lfs(path):
            facts["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
        return facts

    def _resolve(self, repo, path, body):
        if self._fails(path):
            return
        if repo not in self.hub.repos:
            return self._error(401, "RepoNotFound")
        if path not in self.hub.repos[repo]:
            return self._error(404)
        content = self.hub.repos[repo][path]
        if not is_lfs(path):
            return self._content(repo, path, body)
        linked = {"X-Linked-Size": len(content), "X-Linked-Etag": f'"{sha256(content)}"', "X-Repo-Commit": COMMIT}
        location = f"http://localhost:{self.hub.port}/cdn/{repo}//{path}"
        self._head(302, {**linked, "Location": location, "Content-Length": 0, "Accept-Ranges": "bytes"})

    def _content(self, repo, path, body):
        if body and self._fails(f"cdn:{path}"):
            return
        promised = self.hub.repos[repo][path]
        content = self.hub.swap.get(path, promised)
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        headers = {"ETag": f'"{git_sha1(promised)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, {**headers, "Content-Length": len(content) - start})
        if body:
            self._send(path, content[start:])

    def _send(self, path, content):
        cuts = self.hub.cut.get(path, [])
        limit = cuts.pop(0) if cuts else len(content)
        if limit < len(content) and path in self.hub.after_cut:
            self.hub.status[path] = [self.hub.after_cut.pop(path)]
        for begin in range(0, min(limit, len(content)), PIECE):
            piece = content[begin : min(begin + PIECE, limit)]
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            self.hub.sent[path] += len(piece)
            if path in self.hub.slow:
                time.sleep(self.hub.slow[path])
        self.close_connection = self.close_connection or limit < len(content)

    def _head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


def serve(hub):
    """The running server; `shutdown` and `server_close` end it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
