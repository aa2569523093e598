"""`make show-9`: what small cards and quantised weights do to a song, at real size with random weights, on this CPU.

A faked card stands for a real one: the host's memory manager counts its bytes and the CPU computes. Each line says
what is expected and whether it is so; the tool fails if one is not. Three minutes on two quiet cores, 12 GB of memory.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests" / "nodes")]

forms: Any = importlib.import_module("forms")
held: Any = importlib.import_module("held")
lm: Any = importlib.import_module("lm")
real_size: Any = importlib.import_module("real_size")
fakecard: Any = importlib.import_module("fakecard")
songstages: Any = importlib.import_module("songstages")

FAMILY, DTYPE, META = "2b", torch.bfloat16, torch.device("meta")
SECONDS, STEPS, SEED = 10.0, 2, 3
LYRICS = "[Verse]\n" + "late at night the rain is falling on the city and I sing\n" * 8
LONGEST = 600
PLANNER = "lm_06b"
LORA_RANK, LORA_SIZE = 16, 0.02
# What a form of weights may cost at least: cosine of a network, of latents, and the share of the LM's likeliest codes
# that stay. Random weights are harder than trained ones: every code is nearly as likely as the next.
LEAST = {
    "int8": (0.999, 0.99, 0.85),
    "fp8": (0.99, 0.95, 0.6),
    "Q8_0": (0.999, 0.99, 0.85),
    "Q6_K": (0.99, 0.95, 0.6),
    "Q4_K_M": (0.95, 0.8, 0.3),
}


@dataclass
class Report:
    """Prints what is expected and counts what is not so."""

    failed: int = 0

    def expect(self, what: str, good: bool, said: str = "") -> None:
        """One line."""
        self.failed += not good
        print(f"expected {what}: {'ok' if good else 'NOT SO'}{f' ({said})' if said else ''}", flush=True)


@dataclass(frozen=True)
class Shop:
    """The pack inside this process, and a card that is none."""

    pack: Callable[[str], Any]
    card: Any
    report: Report

    def nodes(self, name: str) -> Any:
        """A module of nodes/."""
        return self.pack(f"nodes.{name}")

    def core(self, name: str) -> Any:
        """A module of acestep_models as the pack sees it."""
        return self.pack(f"acestep_models.{name}")

    def hold(self, form: Any = held.WHOLE) -> tuple[Any, Any, Any]:
        """MODEL, conditioner and VAE on the faked card, with the same random weights each time.

        Nobody else keeps those: what goes to the card is copied, and would lie there twice.
        """
        networks = real_size.random_parts(FAMILY, DTYPE)
        states = {part: dict(network.state_dict()) for part, network in networks.items()}
        del networks
        return held.hold(self.pack, states, FAMILY, DTYPE, "cpu:0", form)  # type: ignore[no-any-return]

    def latents(self, model: Any, conditioner: Any) -> Tensor:
        """A short song [1, 64, T] as DiTSample makes it."""
        song = self.core("blueprint").Blueprint(caption="warm piano", lyrics=LYRICS, bpm=90, seconds=SECONDS)
        options = self.core("sampling.schedule").SamplingOptions(steps=STEPS)
        with torch.inference_mode():
            out = self.nodes("sample").DiTSample.execute(model, conditioner, (song,), SEED, sampling=options)
        samples: Tensor = out.args[0]["samples"]
        return samples


def show_stages(shop: Shop, patch: Callable[..., None]) -> None:
    """The stage table of a 240 s song with codes on small cards, without numbers."""
    stages = songstages.Stages(shop.nodes, shop.core, shop.card, patch)
    for card, (size, *kept) in songstages.CARDS.items():
        table, _, seen = stages(size, *kept)
        print(f"\n{songstages.SECONDS:g} s song, card of {card}", *table, sep="\n")
        most = max(stage.total for stage in table)
        shop.report.expect(f"all stages within {size / 1e9:g} GB", most <= size, f"{most / 1e9:.2f} GB")
        share = {stage.network: stage.share for stage in table}
        streamed = [name for name in ("decoder", "condition") if share[name] < 1.0]
        wanted = {"3.5-GB": [], "3.5-GB-as-hosts-do": ["decoder"], "1-GB": ["decoder", "condition"]}[card]
        shop.report.expect(f"streamed: {' and '.join(wanted) or 'nothing'}", streamed == wanted)
    reserved = {stage.network: stage.reserve for stage in table}
    for name, live in stages.live(seen):
        said = f"{live / 1e6:.0f} of {reserved[name] / 1e6:.0f} MB"
        shop.report.expect(f"{name}: what lives at once is reserved", live <= reserved[name], said)
    patch(stages.management, "load_models_gpu", stages.place)
    for name in ("minimum_inference_memory", "extra_reserved_memory"):
        patch(stages.management, name, lambda *_: 0)


def show_longest(shop: Shop) -> None:
    """Peaks of a 600 s song, in a process of their own."""
    print(f"\n{LONGEST} s song")
    command = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--seconds", str(LONGEST)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for line in lines:
        found = re.search(r"(step|decode|encode): +([\d.]+) MB live, +([\d.]+) MB reserved", line)
        if found:
            live, kept = float(found[2]), float(found[3])
            shop.report.expect(f"{found[1]}: reserved is enough, and below 1 GB", live <= kept <= 1000.0, line.strip())


def show_streaming(shop: Shop) -> None:
    """Latents with the decoder half on the card are those with all of it there; with a LoRA on top as well."""
    print(f"\n{SECONDS:g} s song of {STEPS} steps in bf16, all there and streamed")
    shop.card(fakecard.BIG)
    model, conditioner, _ = shop.hold()
    patched = shop.nodes("host.adapters").apply(model, lora(shop, model), 1.0)
    results: dict[str, list[Tensor]] = {}
    for name, kind in (("plain", model), ("with a LoRA", patched)):
        for budget in (fakecard.BIG, model.model_size() * 3 // 4):
            shop.card(budget)
            results.setdefault(name, []).append(shop.latents(kind, conditioner))
            share = kind.loaded_size() / kind.model_size()
            print(f"{name}: {share:.0%} of the decoder on the card")
            shop.report.expect(
                "a part streamed" if budget < fakecard.BIG else "all there", share < 1.0 or budget > 1e12
            )
        whole, streamed = results[name]
        shop.report.expect(f"{name}: streamed latents are the resident ones bit for bit", torch.equal(whole, streamed))
    effect = forms.apart(results["with a LoRA"][0], results["plain"][0])
    shop.report.expect("the LoRA changes the song", effect > 0.01, f"{effect:.1e}")


def lora(shop: Shop, model: Any) -> Any:
    """A LoRA on the self-attention of every layer."""
    low, draw = shop.core("adapters.delta").LowRank, torch.Generator().manual_seed(5)
    shapes = shop.nodes("host.adapters").decoder_shapes(model)
    return {
        name: low(
            LORA_SIZE * torch.randn(LORA_RANK, shape[1], generator=draw),
            LORA_SIZE * torch.randn(shape[0], LORA_RANK, generator=draw),
            1.0,
        )
        for name, shape in shapes.items()
        if re.search(r"self_attn\.[qkvo]_proj$", name)
    }


def show_placement(shop: Shop) -> None:
    """Half of a network on meta: a tensor left behind at home would meet one that is not there, which fails."""
    print("\nhalf of every network on a card that computes nothing (meta)")
    shop.card(fakecard.BIG)
    model, conditioner, vae = shop.hold()
    owners: dict[str, tuple[Any, Any, Callable[[Any], Tensor]]] = {
        "decoder": (
            model,
            model.model.diffusion_model,
            lambda m: m(*on(META, (1, 64, 250), (1,), (1, 301, 2048), (1, 128, 250))),
        ),
        "text encoder": (
            conditioner.text.owner,
            conditioner.text.module,
            lambda m: m(torch.zeros(1, 90, dtype=torch.long, device=META)),
        ),
        "condition encoder": (
            conditioner.condition.owner,
            conditioner.condition.module,
            lambda m: m(*on(META, (1, 90, 1024), (1, 200, 1024), (1, 750, 64))),
        ),
        "VAE": (vae.owner, vae.module, lambda m: m.decode(*on(META, (1, 64, 20)))),
    }
    for name, (owner, module, call) in owners.items():
        owner.load_device = META
        shop.card(owner.model_size() * 3 // 4, device=META)
        owner.detach = lambda **_: None  # its end would bring the weights home, and meta has none
        importlib.import_module("comfy.model_management").load_models_gpu([owner])
        places = {parameter.device.type for parameter in module.parameters()}
        with torch.inference_mode():
            said = call(module).device.type
        shop.report.expect(f"{name}: half there, and nothing left behind", places == {"cpu", "meta"} and said == "meta")


def on(device: torch.device, *shapes: tuple[int, ...]) -> Iterator[Tensor]:
    """Zeros of the shapes."""
    return (torch.zeros(shape, device=device, dtype=DTYPE) for shape in shapes)


def show_forms(shop: Shop) -> None:
    """Each form of quantised weights against bf16: networks, latents, bytes."""
    print(f"\nforms of weights against bf16; a {SECONDS:g} s song of {STEPS} steps")
    shop.card(fakecard.BIG)
    base, whole = answers(shop, held.WHOLE)
    for form in held.FORMS:
        least, least_song, _ = LEAST[form.name]
        shop.card(fakecard.BIG)
        found, sizes = answers(shop, form)
        for name, answer in found.items():
            bound, cosine = least_song if name == "latents" else least, forms.alike(answer, base[name])
            size = f"; {whole[name] / 1e9:.2f} GB before, {sizes[name] / 1e9:.2f} after" if name in sizes else ""
            shop.report.expect(f"{form.name} {name}: cosine at least {bound}", cosine >= bound, f"{cosine:.5f}{size}")


def answers(shop: Shop, form: Any) -> tuple[dict[str, Tensor], dict[str, int]]:
    """What the networks in a form say, and their bytes; latents of a song at the end."""
    model, conditioner, _ = shop.hold(form)
    said, sizes = forms.network_answers(model, conditioner)
    return {**said, "latents": shop.latents(model, conditioner)}, sizes


def show_codes(shop: Shop) -> None:
    """The LM in each form against bf16: after every token of one text, the likeliest code and the drawn one."""
    print(f"\n{PLANNER} against bf16, after each of {forms.TEXT} tokens")
    state = dict(real_size.random_parts(FAMILY, DTYPE, [PLANNER])[PLANNER].state_dict())
    chosen = (held.WHOLE, *held.FORMS)
    found = {form.name: forms.code_answers(shop.pack, PLANNER, state, form) for form in chosen}
    base = found.pop(held.WHOLE.name)
    for name, (hidden, likeliest, drawn, size) in found.items():
        cosine, same = forms.alike(hidden, base[0]), forms.share(likeliest, base[1])
        said = f"{cosine:.5f}; {base[3] / 1e9:.2f} GB before, {size / 1e9:.2f} after"
        shop.report.expect(f"{name} LM: cosine at least {LEAST[name][0]}", cosine >= LEAST[name][0], said)
        told = f"{same:.0%}, and {forms.share(drawn, base[2]):.0%} of the drawn ones"
        shop.report.expect(
            f"{name} LM: at least {LEAST[name][2]:.0%} of the likeliest codes", same >= LEAST[name][2], told
        )


PARTS = ("stages", "longest", "streaming", "placement", "forms", "codes")


def main() -> int:
    """Everything, or the parts that are named; 1 if something is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    chosen = parser.parse_args().only
    start, report, pack = time.monotonic(), Report(), lm.load_pack("cpu")
    print(lm.machine("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        shop = Shop(pack, fakecard.FakeCard(patch.setattr), report)
        shows: dict[str, Callable[[], None]] = {
            "stages": lambda: show_stages(shop, patch.setattr),
            "longest": lambda: show_longest(shop),
            "streaming": lambda: show_streaming(shop),
            "placement": lambda: show_placement(shop),
            "forms": lambda: show_forms(shop),
            "codes": lambda: show_codes(shop),
        }
        for name in chosen:
            shows[name]()
            shop.card.forget()
    device = "see benchmarks/RESULTS.md" if torch.cuda.is_available() else "not shown (no device)"
    print(f"\nlines of a GPU: {device}")
    print(f"{report.failed} not as expected; {(time.monotonic() - start) / 60:.1f} minutes")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
