"""A whole turbo song without LM, from words to sound, against diffusers' pipeline on the same weights, alternating.

    python benchmarks/song.py --seconds 30 --pairs 3

Ours is DiTSample and DecodeAudio on what Load DiT gives out: networks of the host's layers under its memory manager.
Theirs is AceStepPipeline as it comes. Random weights of the real size that both read, the same words, tokenizer and
noise, no download. Printed are the ratio, what part every stage has in it, how far the latents are apart, and the
memory that a run needed beyond what was there before it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parent))

from dit import their_decoder, their_name  # noqa: E402
from held import State, hold, silence, tokenizer  # noqa: E402
from lm import DTYPES, load_pack, machine, their_planner  # noqa: E402
from peak import Peak  # noqa: E402
from real_size import FAMILIES, OTHERS, PARTS, random_parts  # noqa: E402

SEED, BPM, SHIFT = 11, 90, 3.0
CAPTION = "A warm piano ballad with soft drums, a deep bass and a female voice that sings close to the microphone"
LYRICS = "\n".join(["[Verse]", *["late at night the rain is falling on the city and I sing"] * 12])
USUAL, USUAL_LIMIT = 30.0, 40.0  # seconds of sound, and what a 2-core CPU may take for it (a guard rail, no ratio)
REST = "rest"


@dataclass(frozen=True)
class Side:
    """One implementation: `run` -> latents [1, 64, T] and sound [1, 2, N]; `stages` are its networks by name."""

    name: str
    run: Callable[[], tuple[Tensor, Tensor]]
    stages: dict[str, nn.Module]


@dataclass(frozen=True)
class Look:
    """One measured run: seconds of the clock and of the processor, seconds and calls by stage, bytes beyond what was
    there, latents.
    """

    seconds: float
    work: float
    stages: dict[str, float]
    calls: dict[str, int]
    growth: int
    latents: Tensor


class Clock:
    """`with Clock(modules, device) as clock`: seconds and calls of every module's forward."""

    def __init__(self, modules: dict[str, nn.Module], device: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._modules, self._device, self._hooks = modules, device, []

    def __enter__(self) -> Clock:
        for name, module in self._modules.items():
            self._hooks += [
                module.register_forward_pre_hook(lambda *_, name=name: self._count(name, -1)),
                module.register_forward_hook(lambda *_, name=name: self._count(name, 1)),
            ]
        return self

    def __exit__(self, *ending: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _count(self, name: str, sign: int) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize()
        self.seconds[name] += sign * time.perf_counter()
        self.calls[name] += sign > 0


def our_side(pack: Callable[[str], Any], states: dict[str, State], options: argparse.Namespace) -> Side:
    """The two nodes on what a loader gives out."""
    model, conditioner, vae = hold(pack, states, options.family, DTYPES[options.dtype], options.device)
    sample, decode = pack("nodes.sample").DiTSample.execute, pack("nodes.decode").DecodeAudio.execute
    words = {"caption": CAPTION, "lyrics": LYRICS, "language": "en", "bpm": BPM}
    song = pack("acestep_models.blueprint").Blueprint(**words, seconds=options.seconds)
    settings = pack("acestep_models.sampling.schedule").SamplingOptions(shift=SHIFT)

    def run() -> tuple[Tensor, Tensor]:
        latent = sample(model, conditioner, (song,), SEED, sampling=settings).args[0]
        return latent["samples"], decode(vae, latent).args[0]["waveform"]

    stages = {
        "text encoder": conditioner.text.module,
        "condition encoder": conditioner.condition.module,
        "decoder": model.model.diffusion_model,
        "VAE": vae.module.decoder,
    }
    return Side("ours", run, stages)


def their_side(pack: Callable[[str], Any], states: dict[str, State], options: argparse.Namespace) -> Side:
    """AceStepPipeline over the same weights."""
    pipeline = their_pipeline(pack, states, options)
    noise = pack("acestep_models.sampling.noise").song_noise(SEED, round(25 * options.seconds))  # [1, 64, T]
    noise = noise.transpose(1, 2).to(options.device, DTYPES[options.dtype])
    words = {"prompt": CAPTION, "lyrics": LYRICS, "vocal_language": "en", "bpm": BPM, "shift": SHIFT}

    def run() -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def look(pipe: Any, step: int, t: float, given: dict[str, Tensor]) -> dict[str, Tensor]:
            seen[:] = [given["latents"]]
            return {}

        sound = pipeline(
            **words,
            audio_duration=options.seconds,
            latents=noise.clone(),
            output_type="pt",
            return_dict=False,
            callback_on_step_end=look,
        )[0]
        return seen[0].transpose(1, 2).float().cpu(), sound.cpu()

    stages = {
        "text encoder": pipeline.text_encoder,
        "condition encoder": pipeline.condition_encoder,
        "decoder": pipeline.transformer,
        "VAE": pipeline.vae.decoder,
    }
    return Side("diffusers", run, stages)


def their_pipeline(pack: Callable[[str], Any], states: dict[str, State], options: argparse.Namespace) -> Any:
    """Their classes, each over the tensors of ours."""
    from diffusers import AceStepPipeline, FlowMatchEulerDiscreteScheduler

    dtype, device = DTYPES[options.dtype], options.device
    there = {part: {key: value.to(device) for key, value in state.items()} for part, state in states.items()}
    transformer = their_decoder(there["decoder"], options.family)
    transformer.register_to_config(is_turbo=True, model_version="turbo")
    pipeline = AceStepPipeline(
        vae=their_vae(there["vae"], dtype, device),
        text_encoder=their_planner(OTHERS["text_encoder"], there["text_encoder"], device).model,
        tokenizer=their_tokenizer(pack),
        transformer=transformer,
        condition_encoder=their_condition(there["condition"], options.family, dtype, device),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def their_condition(state: State, family: str, dtype: torch.dtype, device: str) -> Any:
    """The condition encoder with the silence that stands for a reference."""
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    known = AceStepConditionEncoder.__init__.__wrapped__.__code__.co_varnames
    with torch.device("meta"):
        model = AceStepConditionEncoder(**{k: v for k, v in vars(FAMILIES[family]).items() if k in known})
    weights = {their_name(key): value for key, value in state.items()}
    weights["silence_latent"] = silence()[None].to(device, dtype)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def their_vae(state: State, dtype: torch.dtype, device: str) -> Any:
    """AutoencoderOobleck, whose weights are length and direction."""
    from diffusers import AutoencoderOobleck

    sizes = {"decoder_input_channels": 64, "sampling_rate": 48_000, "downsampling_ratios": [2, 4, 4, 6, 10]}
    model = AutoencoderOobleck(encoder_hidden_size=128, channel_multiples=[1, 2, 4, 8, 16], **sizes)
    split: State = {}
    for key, value in state.items():
        if value.ndim == 3 and key.endswith(".weight"):
            length = torch.linalg.vector_norm(value.float(), dim=(1, 2), keepdim=True)
            split |= {f"{key}_g": length, f"{key}_v": value}
        else:
            split[key] = value
    model.load_state_dict(split, strict=True)
    return model.eval().to(device, dtype)


def their_tokenizer(pack: Callable[[str], Any]) -> Any:
    """transformers' tokenizer out of the one that we use."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(tokenizer(pack).to_json(), encoding="utf-8")
        return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="<|endoftext|>")


def look(side: Side, device: str) -> Look:
    """One measured run."""
    before = time.process_time()
    with torch.inference_mode(), Clock(side.stages, device) as clock, Peak(device) as peak:
        latents, _ = side.run()
    work = time.process_time() - before
    stages = {**clock.seconds, REST: peak.seconds - sum(clock.seconds.values())}
    return Look(peak.seconds, work, stages, clock.calls, peak.growth, latents)


def compare(mine: Side, other: Side, options: argparse.Namespace) -> None:
    """One unmeasured pair, then the others, alternating."""
    for side in (mine, other):
        look(side, options.device)
    pairs = []
    for number in range(1, options.pairs + 1):
        a, b = look(mine, options.device), look(other, options.device)
        pairs.append((a, b))
        print(f"pair {number}: ours {a.seconds:.2f} s, diffusers {b.seconds:.2f} s: {b.seconds / a.seconds:.2f} x")
    report(pairs, options)


def report(pairs: list[tuple[Look, Look]], options: argparse.Namespace) -> None:
    """Medians of all pairs, in all and by stage."""
    ours, theirs = zip(*pairs, strict=True)
    ratio = statistics.median(b.seconds / a.seconds for a, b in pairs)
    work = statistics.median(b.work / a.work for a, b in pairs)
    print(f"{options.seconds:g} s of song, median of {len(pairs)}: ratio {ratio:.2f}")
    print(f"the same in processor time, which other work on the machine disturbs less: {work:.2f}")
    for stage in [*ours[0].calls, REST]:
        mine, other = (stage_seconds(looks, stage) for looks in (ours, theirs))
        shares = [
            seconds / statistics.median(x.seconds for x in side) for seconds, side in ((mine, ours), (other, theirs))
        ]
        calls = f" in {ours[0].calls[stage]} and {theirs[0].calls[stage]} calls" if stage != REST else ""
        times = f"ours {mine:6.2f} s ({shares[0]:4.0%}), diffusers {other:6.2f} s ({shares[1]:4.0%})"
        print(f"  {stage:17} {times}{'' if stage == REST else f', ratio {other / mine:.2f}'}{calls}")
    first, last = pairs[-1]
    apart = float((first.latents - last.latents).abs().max() / last.latents.abs().max())
    most = [max(side.growth for side in looks) / 2**30 for looks in (ours, theirs)]
    print(f"latents apart {apart:.1e} after 8 steps; memory beyond the weights: {most[0]:.2f} and {most[1]:.2f} GiB")
    if options.device == "cpu" and options.seconds == USUAL:
        best = min(side.seconds for side in ours)
        print(f"ours at best {best:.1f} s; {USUAL_LIMIT:g} s is the limit for a 2-core CPU with nothing beside it")


def stage_seconds(looks: tuple[Look, ...], stage: str) -> float:
    """Median of one stage."""
    return statistics.median(one.stages[stage] for one in looks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="2b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seconds", type=float, default=USUAL)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    networks = random_parts(options.family, DTYPES[options.dtype], PARTS)
    states = {part: dict(module.state_dict()) for part, module in networks.items()}
    del networks
    pack = load_pack(options.device)
    import diffusers

    print(f"{machine(options.device)}, diffusers {diffusers.__version__}; {options.family} {options.dtype}, turbo")
    compare(our_side(pack, states, options), their_side(pack, states, options), options)


if __name__ == "__main__":
    main()
