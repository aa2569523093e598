"""`make show-2`: a 2B model of real size with random weights makes a 10 s song in a real ComfyUI on this CPU, in bf16.

Prints the time of each step, the host's peak memory, and how long a cancelled run goes on. The weights (about 6.5 GB)
stay in .cache/show-2 until `make clean`.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "host")]
sys.path.append(str(ROOT))

from hostlib import RELEASED, Host, Run  # noqa: E402
from prompts import LOAD, SAMPLE, SAVE, song  # noqa: E402

from acestep_models.dit.config import DiTConfig  # noqa: E402
from acestep_models.loading.build import NETWORKS  # noqa: E402
from acestep_models.loading.keymaps import DIT_PARTS  # noqa: E402
from acestep_models.ops import META  # noqa: E402
from acestep_models.qwen3.model import LM_06B, TEXT_ENCODER  # noqa: E402
from acestep_models.tiny.sizes import Sizes  # noqa: E402
from acestep_models.tiny.weights import random_state, raw_shapes  # noqa: E402
from acestep_models.tiny.writer import HOST_QWEN3, Contents, save, write_comfyui_vae, write_dit  # noqa: E402
from acestep_models.vae.config import OobleckConfig  # noqa: E402

CACHE = ROOT / ".cache" / "show-2"
CANCEL_AFTER = 2
SECONDS = 10.0


REAL = Sizes(DiTConfig(is_turbo=True, model_version="turbo"), OobleckConfig(), TEXT_ENCODER, LM_06B)


def states(parts: Mapping[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """Random bf16 tensors for each part of a configuration."""
    found = {}
    for part, config in parts.items():
        module = NETWORKS[part](config, device=META)
        shapes = raw_shapes(part, {key: tuple(value.shape) for key, value in module.state_dict().items()})
        found[part] = {
            key: tensor.bfloat16()
            for name in shapes
            for key, tensor in random_state(part, {name: shapes[name]}, 0).items()
        }
    return found


def write_models(models: Path) -> None:
    """Split files under their released names; the text encoder's has no tokenizer, as the released one."""
    paths = {role: models / folder / name for role, (folder, name) in RELEASED.items()}
    if not paths["model"].exists():
        write_dit(paths["model"], Contents(states(dict.fromkeys(DIT_PARTS, REAL.decoder)), REAL, {}))
    if not paths["vae"].exists():
        write_comfyui_vae(paths["vae"], Contents(states({"vae": REAL.vae}), REAL, {}))
    if not paths["text_encoder"].exists():
        state = states({"text_encoder": REAL.text_encoder})["text_encoder"]
        save(paths["text_encoder"], {HOST_QWEN3.theirs(key): value for key, value in state.items()})


def peak_gigabytes(pid: int) -> float:
    """The largest resident memory that a process ever had (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def step_seconds(run: Run) -> list[float]:
    """Seconds between the progress events of the sampler."""
    times = [event["at"] for event in run.events if event["type"] == "progress" and event["data"]["node"] == SAMPLE]
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def cancelled(host: Host) -> tuple[float, str]:
    """Seconds from the cancel, pressed after two steps, to the end of the run; and how the run ended."""
    pressed: list[float] = []

    def press(host: Host, event: dict[str, Any]) -> None:
        sampling = event["type"] == "progress" and event["data"]["node"] == SAMPLE
        if sampling and event["data"]["value"] == CANCEL_AFTER and not pressed:
            pressed.append(time.monotonic())
            host.post("/interrupt", {})

    run = host.run(song(seed=2, loader={"precision": "bf16"}), timeout=600, on_event=press)
    return run.events[-1]["at"] - pressed[0], run.events[-1]["type"]


def main() -> int:
    """Run it and print the figures."""
    start = time.monotonic()
    write_models(CACHE / "models")
    print(f"random weights of real size: {time.monotonic() - start:.0f} s")
    with Host(CACHE) as host:
        run = host.run(song(seed=1, loader={"precision": "bf16"}, seconds=SECONDS), timeout=1200)
        if not run.ok:
            print(run.message or host.log[-4000:])
            return 1
        steps = step_seconds(run)
        print(run.text(LOAD), run.text(SAMPLE), sep="\n")
        print(f"file: {host.files(run, SAVE)[0].name}, whole prompt {run.seconds:.1f} s with loading")
        print(f"a step: median {statistics.median(steps):.2f} s, all {', '.join(f'{s:.2f}' for s in steps)}")
        again = host.run(song(seed=3, loader={"precision": "bf16"}, seconds=SECONDS), timeout=1200)
        print(f"again, models loaded: {again.seconds:.1f} s, a step {statistics.median(step_seconds(again)):.2f} s")
        waited, ending = cancelled(host)
        print(f"cancel after step {CANCEL_AFTER}: {ending} {waited:.2f} s later")
        print(f"peak memory of the host process: {peak_gigabytes(host.process.pid):.2f} GB")
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    slowest = max(step_seconds(again), default=0.0)
    return 0 if ending == "execution_interrupted" and waited < 2 * slowest + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
