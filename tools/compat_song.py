"""Every module of `acestep_models`, and one tiny song with it: no ComfyUI, no torchaudio, no transformers imported."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 10.0
PACKAGES = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "torchaudio")


def versions() -> str:
    """The packages that matter, with "-" where one is not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    python = ".".join(map(str, sys.version_info[:3]))
    return ", ".join((f"Python {python}", *(f"{name} {version}" for name, version in found.items())))


def import_everything() -> int:
    """Import every module of the core; how many there are."""
    core = importlib.import_module("acestep_models")
    names = [module.name for module in pkgutil.walk_packages(core.__path__, "acestep_models.")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def make_song(folder: Path) -> Any:
    """Waveform [1, 2, N] that tiny random models make of a caption and two lines."""
    import torch

    from acestep_models.blueprint import Blueprint
    from acestep_models.pipelines.decode import decode
    from acestep_models.pipelines.generate import generate
    from acestep_models.pipelines.load import open_models
    from acestep_models.runtime import PlainRuntime
    from acestep_models.sampling.schedule import SamplingOptions
    from acestep_models.tiny import write_tiny

    files, runtime = write_tiny(folder), PlainRuntime()
    models = open_models(files.model, files.text_encoder, files.vae, "turbo")
    blueprint = Blueprint(caption="warm folk, acoustic guitar", lyrics="[Verse]\nday and night", seconds=SECONDS)
    song = generate(runtime, models.decoder, models.conditioner, [blueprint], SamplingOptions(), seed=1)
    # oneDNN of torch 2.4 takes seconds for a transposed convolution of the tiny model's 4 channels
    with torch.backends.mkldnn.flags(enabled=False):
        return decode(runtime, models.vae, song.latents)


def main() -> None:
    """Print the versions, the modules, and what came out; fail if it is not a song of the right length."""
    sys.path.append(str(ROOT))
    print(f"  {versions()}")
    print(f"  {import_everything()} modules imported")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wave = make_song(Path(folder))
    level = float(wave.square().mean().sqrt())
    print(f"  one song: {wave.shape[-1]} samples, {wave.shape[1]} channels, {level:.3f} RMS ", end="")
    print(f"in {time.monotonic() - start:.1f} s")
    if tuple(wave.shape) != (1, 2, int(SECONDS * 48_000)) or not 0.0 < level < 10.0:
        raise SystemExit(f"expected [1, 2, {int(SECONDS * 48_000)}] and a level between 0 and 10")
    if loaded := {"torchaudio", "transformers", "diffusers", "peft"} & sys.modules.keys():
        raise SystemExit(f"the core imported {', '.join(sorted(loaded))}")


if __name__ == "__main__":
    main()
