"""Our code loop against `transformers.generate` on the same work: same weights, same prompts, alternating in one run.

    python benchmarks/lm.py --size 0.6b --dtype bf16 --pairs 5 --codes 32

Ours is what a node runs: ComfyUI's casting layers under its memory manager, a prompt and a bare negative prompt read
separately, guidance as one batch, code rows of the head only. Theirs is `generate` on a batch of two prompts with one
processor that mixes the two, masks everything but codes and keeps the top 0.9. Random weights, no download. Both are
timed from the first code to the last one: what comes before is reading the prompt. On the CPU a run counts by the
median of its tokens, which other work on the machine disturbs least; on a card, where tokens overlap, by its mean.

    python benchmarks/lm.py --songs 1 2 4 8

What a step of so many songs at once costs against that of the first number, ours alone; `--apart` gives every song a
prompt of another length.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
PACK = "acestep_pack"
sys.path[:0] = [str(ROOT / "tests" / "host")]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from hostlib import comfyui_dir  # noqa: E402
from real_size import PLANNERS, random_parts  # noqa: E402

SIZES = {"0.6b": "lm_06b", "1.7b": "lm_17b", "4b": "lm_4b"}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CODE_BASE, IM_END, CODES = 151_669, 151_645, 64_000
PROMPT, NEGATIVE = 300, 33  # tokens
GUIDANCE, TEMPERATURE, TOP_P = 2.0, 0.85, 0.9


def load_pack(device: str) -> Callable[[str], Any]:
    """The pack as ComfyUI loads it; pack("nodes.host.ops") is that module."""
    sys.path.insert(0, str(comfyui_dir()))
    from comfy.cli_args import args

    args.cpu = device == "cpu"
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules[PACK] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda name: importlib.import_module(f"{PACK}.{name}")


def our_planner(
    pack: Callable[[str], Any], config: Any, state: dict[str, Tensor], dtype: torch.dtype, device: str
) -> Any:
    """The LM as a node holds it, made of the host's layers; of its vocabulary only the two ids that codes need."""
    model = pack("acestep_models.qwen3.model").Qwen3(
        config, pack("nodes.host.ops").casting_ops(), device="meta", dtype=dtype
    )
    model.load_state_dict(state, strict=True, assign=True)
    cpu = torch.device("cpu")
    handle = pack("nodes.host.runtime").handle(model.requires_grad_(False), dtype, torch.device(device), cpu)
    words = SimpleNamespace(code_base=CODE_BASE, im_end=IM_END)
    graphs = pack("acestep_models.graphs").Graphs()
    return SimpleNamespace(model=handle, name="random", vocabulary=words, graphs=graphs)


def their_planner(config: Any, state: dict[str, Tensor], device: str) -> Any:
    """transformers' Qwen3 over the same weights."""
    import transformers

    sizes = {name: getattr(config, name) for name in config.__dataclass_fields__}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"))
    given = transformers.Qwen3Config(**sizes, max_position_embeddings=40960, tie_word_embeddings=True, **ends)
    given._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = transformers.Qwen3ForCausalLM(given)
    weights = {f"model.{key}": value for key, value in state.items()}
    model.load_state_dict({**weights, "lm_head.weight": state["embed_tokens.weight"]}, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=given)  # its table is no weight: made anew off meta
    return model.eval().to(device)


def prompts() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A prompt and a negative prompt of random words."""
    generator = torch.Generator().manual_seed(3)
    draw = torch.randint(0, 150_000, (PROMPT + NEGATIVE,), generator=generator).tolist()
    return tuple(draw[:PROMPT]), tuple(draw[PROMPT:])


class Ours:
    """write_codes under the host's runtime, which here notes each token instead of moving a bar."""

    def __init__(self, pack: Callable[[str], Any], planner: Any) -> None:
        self._decode = pack("acestep_models.planner.decode")
        self._runtime, self._planner = pack("nodes.host.runtime").HostRuntime(), planner

    def run(self, codes: int, songs: int = 1, apart: bool = False) -> list[float]:
        """The times at which each of `songs` had one code more; with `apart` their prompts differ in length."""
        times: list[float] = []
        self._runtime.progress = lambda done, total: times.append(time.perf_counter())
        positive, negative = prompts()
        texts = tuple(positive[7 * song * apart :] for song in range(songs))
        request = self._decode.CodesRequest(texts, negative, codes, tuple(range(1, songs + 1)), GUIDANCE)
        self._decode.write_codes(self._runtime, self._planner, request)
        return [*times[: codes - 1], times[-1]]  # the last one is told again when the device has finished


class Theirs:
    """`generate` with one processor for guidance and mask, and transformers' own top-p."""

    def __init__(self, model: Any) -> None:
        self._model, self._device = model, model.device

    def run(self, codes: int) -> list[float]:
        """The times at which codes were done."""
        times: list[float] = []
        positive, negative = prompts()
        missing = PROMPT - NEGATIVE
        ids = torch.tensor([positive, negative[:1] * missing + negative], device=self._device)
        mask = torch.ones_like(ids)
        mask[1, :missing] = 0

        def guide(_: Tensor, scores: Tensor) -> Tensor:
            times.append(time.perf_counter())
            mixed = scores[1:] + GUIDANCE * (scores[:1] - scores[1:])  # [1, V]
            mixed[:, :CODE_BASE] = mixed[:, CODE_BASE + CODES :] = -torch.inf
            return mixed.expand_as(scores).clone()

        self._model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=codes + 1,
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            logits_processor=[guide],
            pad_token_id=IM_END,
        )
        return times[1:]  # it is asked when the logits are there: the first code is drawn after that


def seconds_a_token(times: list[float], device: str) -> float:
    """Of one run."""
    steps = [after - before for before, after in zip(times, times[1:], strict=False)]
    return statistics.median(steps) if device == "cpu" else statistics.fmean(steps)


def sampling_seconds(device: str, calls: int = 30) -> float:
    """What drawing one code of 64 000 takes after the logits: with cold caches on the CPU, as a graph on a card."""
    from acestep_models.graphs import record_cuda
    from acestep_models.planner.sampling import TokenSampling, pick

    logits, number = 3 * torch.randn(1, CODES, device=device), torch.rand(1, device=device)
    other = torch.zeros(1 << 26, dtype=torch.uint8)

    def draw() -> None:
        pick(logits, number, TokenSampling(TEMPERATURE, TOP_P))

    draw()
    call = draw if device == "cpu" else record_cuda(draw).replay
    wait = other.zero_ if device == "cpu" else torch.cuda.synchronize
    spent = []
    for _ in range(calls):
        wait()
        start = time.perf_counter()
        call()
        if device != "cpu":
            wait()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--codes", type=int, default=32)
    parser.add_argument("--songs", type=int, nargs="+", default=[])
    parser.add_argument("--apart", action="store_true", help="with --songs: prompts of different lengths")
    options = parser.parse_args()
    torch.manual_seed(0)
    part, dtype = SIZES[options.size], DTYPES[options.dtype]
    state = {
        key: value.to(options.device) for key, value in random_parts("2b", dtype, [part])[part].state_dict().items()
    }
    pack = load_pack(options.device)
    ours = Ours(pack, our_planner(pack, PLANNERS[part], state, dtype, options.device))
    with torch.inference_mode():
        if options.songs:
            compare_songs(ours, options)
        else:
            compare(ours, Theirs(their_planner(PLANNERS[part], state, options.device)), options)


def compare(ours: Ours, theirs: Theirs, options: argparse.Namespace) -> None:
    """One unmeasured pair, then the others, alternating."""
    print(f"{machine(options.device)}; {options.size} {options.dtype} on {options.device}, {options.codes} codes")
    for side in (ours, theirs):
        side.run(4)
    fast, slow = [], []
    for number in range(1, options.pairs + 1):
        fast.append(seconds_a_token(ours.run(options.codes), options.device))
        slow.append(seconds_a_token(theirs.run(options.codes), options.device))
        print(f"pair {number}: {in_words(fast[-1], slow[-1])}: {slow[-1] / fast[-1]:.2f} x")
    mine, other = statistics.median(fast), statistics.median(slow)
    ratio = statistics.median(b / a for a, b in zip(fast, slow, strict=True))
    print(f"median of {options.pairs}: {in_words(mine, other)}; {1 / mine:.1f} tokens/s, ratio {ratio:.2f}")
    print(f"sampling after the logits: {sampling_seconds(options.device) / mine:.1%} of a token")


def compare_songs(ours: Ours, options: argparse.Namespace) -> None:
    """The numbers of songs take turns; a line for each with its cost over that of the first."""
    print(f"{machine(options.device)}; {options.size} {options.dtype} on {options.device}, {options.codes} codes")
    spent: dict[int, list[float]] = {songs: [] for songs in options.songs}
    ours.run(2)
    for _ in range(options.pairs):
        for songs, times in spent.items():
            times.append(seconds_a_token(ours.run(options.codes, songs, options.apart), options.device))
    alone = spent[options.songs[0]]
    for songs, times in spent.items():
        cost = statistics.median(many / one for one, many in zip(alone, times, strict=True))
        print(
            f"{songs} songs: {statistics.median(times) * 1e3:.2f} ms a step, {cost:.2f} of the step of "
            f"{options.songs[0]}, of the best ones {min(times) / min(alone):.2f}"
        )


def in_words(ours: float, theirs: float) -> str:
    """Both times of a token."""
    return f"ours {ours * 1e3:.2f} ms, generate {theirs * 1e3:.2f} ms"


def machine(device: str) -> str:
    """Processor or card, and versions."""
    import transformers

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )


def processor() -> str:
    """The model of the processor, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
