"""One song in a real ComfyUI; the last line printed is the path of the FLAC.

    python tools/demo.py

With real ACE-Step 1.5 files in a models folder (COMFYUI_MODELS, COMFYUI_DIR/models, or the ComfyUI that this folder is
installed in) it is music. Without them tiny random models are written first, and it is noise.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "host")]

import hostlib  # noqa: E402

from acestep_models.loading.formats import probe  # noqa: E402
from acestep_models.tiny import write_tiny  # noqa: E402

BASE = ROOT / ".cache" / "demo"
WORKFLOW = ROOT / "workflows" / "api" / "text_to_song.json"
DECODER = frozenset({"decoder", "condition"})
TINY_PREFIX = "acestep_tiny"
TIMEOUT = 24 * 3600.0  # real weights on a CPU take their time; Ctrl-C ends it


@dataclass(frozen=True)
class Weights:
    """A models folder and the decoder in it, by the name that Load DiT shows."""

    folder: Path
    name: str


def model_folders() -> list[Path]:
    """Where real weights may lie."""
    named = [os.environ.get("COMFYUI_MODELS"), os.environ.get("COMFYUI_DIR") and f"{os.environ['COMFYUI_DIR']}/models"]
    around = ROOT.parent.parent / "models" if ROOT.parent.name == "custom_nodes" else None
    folders = [*(Path(name) for name in named if name), *([around] if around else [])]
    return [folder.absolute() for folder in folders if folder.is_dir()]


def files_with(parts: frozenset[str], folder: Path) -> Iterator[Path]:
    """The real safetensors files below a folder whose header shows all of `parts`; turbo first."""
    files = (path for path in folder.rglob("*.safetensors") if not path.name.startswith(TINY_PREFIX))
    for path in sorted(files, key=lambda path: ("turbo" not in path.name, path.name)):
        try:
            found = probe(path).parts
        except ValueError:  # a file of another model
            continue
        if parts <= found:
            yield path


def find_weights() -> Weights | None:
    """The first models folder that holds a decoder, a text encoder and a VAE."""
    for models in model_folders():
        decoder = next(files_with(DECODER, models / "diffusion_models"), None)
        others = (("text_encoders", "text_encoder"), ("vae", "vae"))
        complete = all(any(files_with(frozenset({part}), models / category)) for category, part in others)
        if decoder is not None and complete:
            return Weights(models, str(decoder.relative_to(models / "diffusion_models")))
    return None


def tiny_weights() -> Weights:
    """Freshly written tiny models."""
    written = write_tiny(BASE / "tiny")
    return Weights(BASE / "tiny", written.model.name)


def prompt(weights: Weights) -> dict[str, Any]:
    """The shipped workflow with the model that there is."""
    nodes: dict[str, Any] = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in nodes.values():
        if node["class_type"] == "ACEStepLoadDiT":
            node["inputs"]["model"] = weights.name
    return nodes


class Progress:
    """Prints what ComfyUI is doing, a line a node and a line a step."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self.nodes = nodes
        self.start = time.monotonic()

    def __call__(self, host: object, event: dict[str, Any]) -> None:
        """`hostlib.Host.run` calls this with every event."""
        data, node = event["data"], self.nodes.get(str(event["data"].get("node")))
        if event["type"] == "executing" and node is not None:
            self.say(node["class_type"])
        elif event["type"] == "progress" and node is not None:
            self.say(f"  {data['value']} of {data['max']}")

    def say(self, text: str) -> None:
        """One line with the time since the start."""
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", flush=True)


@dataclass(frozen=True)
class Flac:
    """What a FLAC file says about itself."""

    rate: int
    channels: int
    samples: int


def read_flac(path: Path) -> Flac:
    """Read the first 26 bytes: marker, block header, and STREAMINFO with rate (20 bits), channels - 1 (3), depth - 1
    (5) and samples (36) behind 10 bytes of block sizes."""
    with path.open("rb") as file:
        head = file.read(26)
    if head[:4] != b"fLaC":
        raise SystemExit(f"{path} is not a FLAC file")
    packed = int.from_bytes(head[18:26], "big")
    return Flac(packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1)


def make_song(nodes: dict[str, Any], paths: Path, progress: Progress) -> Path:
    """Run the workflow in a ComfyUI of its own; the file that it saved."""
    with hostlib.Host(BASE, extra=["--extra-model-paths-config", str(paths)]) as host:
        run = host.run(nodes, timeout=TIMEOUT, on_event=progress)
        if not run.ok:
            raise SystemExit(f"the workflow failed: {run.message}\nComfyUI's log: {host.log_path}")
        saved = next(key for key, output in run.outputs.items() if "audio" in output)
        path: Path = host.files(run, saved)[0]
    return path


def main() -> None:
    """Find or write models, start ComfyUI, run the workflow, say what came out."""
    weights = find_weights()
    if weights is None:
        print("No ACE-Step 1.5 files found: using tiny random models. This is noise, not music.", flush=True)
        weights = tiny_weights()
    else:
        print(f"Using {weights.name} from {weights.folder}. On a CPU this takes a while.", flush=True)
    BASE.mkdir(parents=True, exist_ok=True)
    paths = hostlib.extra_model_paths(BASE / "extra_model_paths.yaml", weights.folder)
    nodes = prompt(weights)
    progress = Progress(nodes)
    progress.say("starting ComfyUI")
    try:
        path = make_song(nodes, paths, progress)
    except hostlib.HostMissing as error:
        raise SystemExit(str(error)) from error
    flac = read_flac(path)
    print(f"{flac.rate} Hz, {flac.channels} channels, {flac.samples} samples ({flac.samples / flac.rate:g} s)")
    print(path)


if __name__ == "__main__":
    main()
