"""A step of our decoder against ComfyUI's own ACE-Step 1.5 on the same weights and inputs, alternating in one run.

    python benchmarks/native.py --comfy PATH --seconds 10 30 --pairs 5

PATH is a ComfyUI that has comfy/ldm/ace/ace_step15.py; the pack runs inside the same one. Theirs is called as its
sampler calls it: with words, lyrics, reference and codes at every step, and encodes them at every step. Ours encodes
them once a song. Printed are a step of both, their decoder alone, and eight steps with what either does once. Without
PATH, or where that ComfyUI has none, it says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))

from held import CLASSES, State, config_of, hold_model  # noqa: E402
from lm import DTYPES, load_pack, processor  # noqa: E402
from real_size import random_parts  # noqa: E402

from acestep_models.loading.keymaps import DIT_PARTS, canonical  # noqa: E402

FILE = Path("comfy") / "ldm" / "ace" / "ace_step15.py"
TEXT, LYRICS, WIDTH, STEPS = 100, 200, 1024, 8  # tokens of the caption and of the lyrics, their width; a turbo song
FLOORS = {30: (1.4, 1.8), 60: (1.4, 1.8)}  # spec/perf.md, R1: a step in bf16
Call = Callable[[], Tensor]


def native_model(states: dict[str, State], dtype: torch.dtype, device: str) -> Any:
    """Their network over the same weights, with layers that do not cast."""
    import comfy.ldm.ace.ace_step15 as ace
    import comfy.ops

    ops = comfy.ops.disable_weight_init
    model = ace.AceStepConditionGenerationModel(dtype=dtype, device=device, operations=ops).eval()
    weights = {canonical(part, key): value for part, state in states.items() for key, value in state.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if missing or unexpected:
        raise ValueError(f"{FILE}: this version names its tensors otherwise: {(missing + unexpected)[:3]}")
    return model.requires_grad_(False)


def song(seconds: float, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """What both read, [1, C, T] and [1, L, C]; codes are [1, T / 5]."""
    draw, frames = torch.Generator().manual_seed(1), round(25 * seconds)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device, dtype)

    codes = torch.randint(0, 64_000, (1, frames // 5), generator=draw).to(device)
    given = {"x": random(1, 64, frames), "refer": random(1, 64, frames), "codes": codes}
    return {**given, "text": random(1, TEXT, WIDTH), "lyrics": random(1, LYRICS, WIDTH)}


class Ours:
    """The network of a MODEL, and what comes before it once a song."""

    def __init__(self, pack: Callable[[str], Any], states: dict[str, State], dtype: torch.dtype, device: str) -> None:
        self._store = pack("acestep_models.dit.told").ToldStore
        self._context = pack("acestep_models.dit.context").task_context
        ops = pack("nodes.host.ops").casting_ops()
        self._parts: dict[str, Any] = {}
        for part in ("condition", "tokenizer", "detokenizer"):
            where, _, kind = CLASSES[part].rpartition(".")
            module = getattr(pack(where), kind)(config_of(pack, part, "2b"), ops, device="meta", dtype=dtype)
            module.load_state_dict(states[part], strict=True, assign=True)
            self._parts[part] = module.eval().requires_grad_(False).to(device)
        self._model = hold_model(pack, states["decoder"], "2b", dtype, device)
        self._model.model.to(device)

    def encode(self, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens [1, L, E] and context [1, 128, T]."""
        parts, frames = self._parts, given["x"].shape[-1]
        tokens = parts["condition"](given["text"], given["lyrics"], given["refer"].transpose(1, 2))
        hints = parts["detokenizer"](parts["tokenizer"].vectors(given["codes"]))[:, :frames]
        return tokens, self._context(hints).transpose(1, 2)

    def step(self, x: Tensor, t: Tensor, tokens: Tensor, context: Tensor) -> Call:
        """A step [1, 64, T] of a song whose tokens [1, L, E] and context [1, 128, T] are known."""
        store, network = self._store(), self._model.model.diffusion_model
        return lambda: network(x, t, tokens, context, told_store=store)


class Native:
    """What its sampler calls, and its decoder alone on what that was given then."""

    def __init__(self, model: Any, given: dict[str, Tensor], t: Tensor) -> None:
        self._model, self._given, self._t = model, given, t
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        hook = model.decoder.register_forward_pre_hook(lambda _, *said: seen.append(said), with_kwargs=True)
        self.whole()
        hook.remove()
        self._positional, self._named = seen[0]
        self.tokens: Tensor = self._named["encoder_hidden_states"]  # [1, L, E]
        self.context: Tensor = self._named["context_latents"].movedim(-1, -2)  # [1, 128, T]

    def whole(self) -> Tensor:
        """One velocity [1, 64, T], conditions and all."""
        given = self._given
        words = {"lyric_embed": given["lyrics"], "refer_audio": given["refer"], "audio_codes": given["codes"]}
        out: Tensor = self._model(given["x"], self._t, given["text"], **words)
        return out

    def alone(self) -> Tensor:
        """The same velocity from conditions that are encoded already."""
        out: Tensor = self._model.decoder(*self._positional, **self._named)
        return out.movedim(-1, -2)


def timed(call: Call, device: str) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(ours: Ours, native: Any, seconds: float, options: argparse.Namespace) -> None:
    """One unmeasured round, then the others; all sides take turns."""
    dtype, device = DTYPES[options.dtype], options.device
    given, t = song(seconds, dtype, device), torch.full((1,), 0.7, device=device)  # the host hands out fp32
    theirs = Native(native, given, t)
    step = ours.step(given["x"], t, theirs.tokens, theirs.context)
    sides: list[Call] = [step, theirs.whole, theirs.alone, lambda: ours.encode(given)[0]]
    mine, other, *_ = (side().float() for side in sides)
    error = float((mine - other).abs().max() / other.abs().max())
    rounds = [[timed(side, device) for side in sides] for _ in range(options.pairs)]
    ours_s, full, decoder, encode = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(row[1] / row[0] for row in rounds)
    bare = statistics.median(row[2] / row[0] for row in rounds)
    in_all = statistics.median(STEPS * row[1] / (STEPS * row[0] + row[3]) for row in rounds)
    floor = FLOORS.get(round(seconds))
    goal = f"floor {floor[0]} (aim {floor[1]})" if floor and options.dtype == "bf16" else "no goal"
    print(
        f"{seconds:g} s: ours {ours_s:.3f} s a step, native {full:.3f} s, ratio {ratio:.2f}, {goal}, apart {error:.1e}"
    )
    print(f"  its decoder alone {decoder:.3f} s: {bare:.2f} x; our encoding once a song {encode:.3f} s")
    print(f"  {STEPS} steps with what either does once: {in_all:.2f} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfy", type=Path, help="folder of a ComfyUI with " + FILE.as_posix())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30, 60])
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    if options.comfy is None or not (options.comfy / FILE).is_file():
        print(f"native column: not shown (no ComfyUI with {FILE.as_posix()}: give its folder with --comfy)")
        return
    os.environ["COMFYUI_DIR"] = str(options.comfy.absolute())
    pack, dtype = load_pack(options.device), DTYPES[options.dtype]
    parts = random_parts("2b", dtype, DIT_PARTS)
    states = {
        part: {key: value.to(options.device) for key, value in module.state_dict().items()}
        for part, module in parts.items()
    }
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else processor()
    version = (options.comfy / "comfyui_version.py").read_text().rpartition("=")[2].strip().strip('"')
    print(
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, ComfyUI {version}; 2b {options.dtype}"
    )
    with torch.inference_mode():
        ours = Ours(pack, states, dtype, options.device)
        native = native_model(states, dtype, options.device)
        for seconds in options.seconds:
            compare(ours, native, seconds, options)


if __name__ == "__main__":
    main()
