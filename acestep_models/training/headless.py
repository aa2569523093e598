"""Training without ComfyUI, from one JSON file: `python -m acestep_models.training CONFIG`.

`accelerate launch -m acestep_models.training CONFIG` shares the work between cards or machines; all of them must see
the same output folder. Two processes on CPUs: `accelerate launch --multi_gpu --num_processes 2` with "device": "cpu" in
CONFIG (`accelerate launch --cpu --num_processes 2` starts only one where there is no MPI). Paths in CONFIG count from
its own folder. An example:

{
  "models": {"model": "turbo.safetensors", "text_encoder": "qwen.safetensors", "vae": "vae.safetensors",
             "tokenizer": "tokenizer.json", "variant": "turbo"},
  "dataset": {"path": "songs", "tag": "my style", "tag_position": "prepend", "genre_ratio": 0},
  "options": {"rank": 64, "steps": 1000},
  "output": "runs", "name": "my_style"
}

"models" may also name the "conditioner" file (of a decoder that was saved alone); "dataset" the hints (true or false),
"posterior" and "longest_seconds" of `PrepareOptions`; beside them "precision" (fp32, bf16, fp16) and "device" (cpu,
cuda, cuda:1). No samples are made: "sample_every" stays 0. A file called "stop" in the run folder ends the run after
the running step and keeps what is there.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import torch

from ..dit.transformer import DiT
from ..pipelines.load import SongModels, open_models
from ..runtime import PlainRuntime
from .around import Around, Point, Result, RunPlan, Silent
from .conditions import PrepareOptions, prepare
from .config import ABOUT_SET, ABOUT_SONGS, PATHS, PRECISIONS, Config, read_config
from .data.clip import Dataset
from .data.open import open_dataset
from .examples import Prepared
from .job import train
from .parallel import Workers, several_processes
from .record import PREPARED, compare_options
from .wish import check_wish

STOP = "stop"
_EVERY = 10  # steps between two lines


class Printer(Silent):
    """A line on the terminal every ten steps, and the file that ends a run."""

    def __init__(self, stop: Path, talks: bool = True) -> None:
        self._stop, self._talks = stop, talks

    def begin(self) -> None:
        """A file that was to end an earlier run does not end this one."""
        if self._talks and self._stop.exists():
            self._stop.unlink(missing_ok=True)
            self.say(f"{self._stop} was left by an earlier run: it is removed.")

    def started(self, plan: RunPlan) -> None:
        """What is about to happen."""
        self.say(
            f"{plan.folder}: steps {plan.start + 1} to {plan.steps}, each of {plan.items} out of {plan.songs} songs; "
            f"{plan.parameters / 1e6:.1f} million parameters"
        )
        for note in plan.notes:
            self.say(note)

    def point(self, point: Point) -> None:
        """Loss, speed and the time that is left."""
        if point.step % _EVERY and point.step != point.steps and point.validation is None:
            return
        validation = "" if point.validation is None else f" validation {point.validation:.4f}"
        left = (point.steps - point.step) * point.seconds / 60
        self.say(
            f"step {point.step}/{point.steps} loss {point.loss:.4f} average {point.average:.4f}{validation} "
            f"rate {point.learning_rate:.2e} gradient {point.grad_norm:.3f} {point.seconds:.2f} s/step, "
            f"{left:.0f} min left, {point.peak_bytes / 1e9:.1f} GB"
        )

    def should_stop(self) -> bool:
        """Whether the file is there; the first process takes it away."""
        asked = self._stop.exists()
        if asked and self._talks:
            self._stop.unlink(missing_ok=True)
        return asked

    def say(self, text: str) -> None:
        """One line, from the first process only."""
        if self._talks:
            print(text, flush=True)


def run_config(path: Path) -> Result:
    """Prepare the songs and train, as CONFIG says.

    Raises:
        ValueError: as `read_config`, `open_dataset`, `prepare` and `train` do.
        ACEStepError: as `train` does.
    """
    config = read_config(path)
    dataset = _dataset(config)
    workers = Workers.accelerated(config.device == "cpu") if several_processes() else Workers.single()
    device = workers.device or _device(config.device)
    with config.naming("options"):
        check_wish(config.options, dataset, device)
        compare_options(config.folder, config.options, config.models["variant"])
    precision = config.precision or ("fp32" if device.type == "cpu" else "bf16")
    watcher = Printer(config.folder / STOP, workers.main)
    runtime = PlainRuntime(device)
    decoder, data = _load(config, runtime, workers, dataset, watcher)
    around = Around(runtime, device, workers, watcher, {"base_model": Path(config.models["model"]).name})
    decoder = decoder.to(PRECISIONS[precision])
    return train(decoder, config.models["variant"], data, config.options, config.folder, around)


def _load(
    config: Config, runtime: PlainRuntime, workers: Workers, dataset: Dataset, watcher: Printer
) -> tuple[DiT, Prepared]:
    """The decoder on the CPU, and the songs; what read them is gone. The first thing here that writes anything."""
    models = _models(config)
    watcher.begin()
    if not workers.main:
        workers.barrier()  # the first process prepares; the others find it done
    with config.naming("dataset"):
        data = _prepare(config, runtime, models, dataset)
    if workers.main:
        workers.barrier()
    decoder: DiT = models.decoder.handle.module
    del models
    gc.collect()
    return decoder, data


def _models(config: Config) -> SongModels:
    """All networks in fp32: conditions and latents are made once, as exactly as can be."""
    paths = {name: config.base / config.models[name] for name in PATHS if config.models.get(name)}
    with config.naming("models"):
        return open_models(
            paths["model"],
            paths["text_encoder"],
            paths["vae"],
            config.models["variant"],
            tokenizer=paths.get("tokenizer"),
            conditioner=paths.get("conditioner"),
        )


def _dataset(config: Config) -> Dataset:
    said = {name: config.dataset[name] for name in ABOUT_SET if name in config.dataset}
    with config.naming("dataset"):
        return replace(open_dataset(config.base / config.dataset["path"]), **said)


def _prepare(config: Config, runtime: PlainRuntime, models: SongModels, dataset: Dataset) -> Prepared:
    options = config.options
    said = {name: config.dataset[name] for name in ABOUT_SONGS if name in config.dataset}
    wish = PrepareOptions(
        **{"hints": options.hint_share > 0, **said},
        duration=options.duration,
        crop_frames=options.crop_frames,
        seed=options.seed,
    )
    with torch.inference_mode():
        return prepare(runtime, models.conditioner, models.vae, dataset, config.folder / PREPARED, wish)


def _device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
