"""A song of 240 s at real sizes on a card of any size: what lies there at each stage. For a test and for a tool.

Weights have sizes and no numbers: nothing computes, every network is placed, streamed and evicted by the host itself.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "layers"))

from livebytes import JOINED, peak_bytes  # noqa: E402

CPU, META, BF16 = torch.device("cpu"), torch.device("meta"), torch.bfloat16
SMALL, LARGE = 3_500_000_000, 1 << 40  # bytes
SECONDS, FRAMES = 240.0, 6000
PARTS = ("text", "condition", "code_tokenizer", "detokenizer")
ORDER = (*PARTS, "decoder", "vae")
CARDS = {  # bytes of the card, and what the host keeps of it for computing and for others
    "3.5-GB": (SMALL, 0, 0),
    "3.5-GB-as-hosts-do": (SMALL, int(1.2 * 1024**3), 400 << 20),
    "1-GB": (1_000_000_000, 0, 0),
}
LYRICS = "\n".join(["[Verse]", *["late at night the rain is falling on the city and I sing"] * 40])


@dataclass(frozen=True)
class Stage:
    """What lay on the card when a network had been placed, in bytes.

    `weights` of all networks, of which `others`; `buffers` that it streams through; `reserve` to compute in.
    """

    network: str
    share: float
    weights: int
    others: int
    buffers: int
    reserve: int

    @property
    def total(self):
        return self.weights + self.buffers + self.reserve

    def __str__(self):
        parts = (f"{name} {size / 1e9:5.2f}" for name, size in vars(self).items() if isinstance(size, int))
        return f"{self.network:17} {self.share:4.0%} resident, GB: {', '.join(parts)}, sum {self.total / 1e9:5.2f}"


class Stages:
    """stages(budget) -> stages of a song with codes on a card of so many bytes; what lay there last; shapes seen."""

    def __init__(self, pack, core, fake_gpu, set_attribute):
        self.pack, self.core, self.fake_gpu, self.set_attribute = pack, core, fake_gpu, set_attribute
        import comfy.model_management as management

        self.management, self.place = management, management.load_models_gpu

    def __call__(self, budget, inference=0, reserved=0):
        model, conditioner, vae, seen = self.real()
        names = {id(getattr(conditioner, name).owner.model): name for name in PARTS}
        names |= {id(vae.owner.model): "vae", id(model.model): "decoder"}
        table = []

        def look(models, memory_required=0, minimum_memory_required=None, **more):
            self.place(models, memory_required, minimum_memory_required=minimum_memory_required, **more)
            least = memory_required if minimum_memory_required is None else minimum_memory_required
            table.append(self.stage(models[0], names, int(least)))

        self.set_attribute(self.management, "load_models_gpu", look)
        self.fake_gpu(budget)
        self.set_attribute(self.management, "minimum_inference_memory", lambda *_: inference)
        self.set_attribute(self.management, "extra_reserved_memory", lambda *_: reserved)
        self.sing(model, conditioner, vae)
        left = {names[id(e.model.model)] for e in self.management.current_loaded_models if e.model.loaded_size()}
        return table, left, seen

    def real(self):
        """MODEL, conditioner and VAE of a 2B turbo in bf16, which answer with zeros, and what they were given."""
        runtime, ops, core = self.pack("host.runtime"), self.pack("host.ops").casting_ops(), self.core
        config = core("dit.config").DiTConfig(is_turbo=True, model_version="turbo")
        classes = {
            "text": (core("qwen3.model").Qwen3, core("qwen3.config").TEXT_ENCODER),
            "condition": (core("dit.condition").ConditionEncoder, config),
            "code_tokenizer": (core("dit.codes").AudioTokenizer, config),
            "detokenizer": (core("dit.codes").AudioDetokenizer, config),
            "vae": (core("vae.oobleck").Oobleck, core("vae.config").OobleckConfig()),
        }
        self.fake_gpu(LARGE)
        card = self.management.get_torch_device()
        parts = {
            name: runtime.handle(nowhere(network(given, ops, META, BF16)), BF16, card, CPU)
            for name, (network, given) in classes.items()
        }
        vae = parts.pop("vae")
        model = self.pack("host.models").SongModel(config, "turbo", BF16, BF16)
        words = SimpleNamespace(encode_prompt=lambda text: tuple(range(len(text.split()) + 60)))
        silence = core("dit.silence").Silence(torch.zeros(15_000, 64))
        conditioner = core("pipelines.encode").ConditionerModels(
            **parts, tokenizer=words, silence=silence, config=config, variant="turbo"
        )
        return runtime.patcher(nowhere(model), card, CPU), conditioner, vae, answer(model, conditioner, vae)

    def sing(self, model, conditioner, vae):
        """From words to sound, as the nodes go."""
        core, runtime = self.core, self.pack("host.runtime").HostRuntime()
        song = core("blueprint").Blueprint(
            caption="calm piano", lyrics=LYRICS, seconds=SECONDS, codes=tuple(range(1200)), bpm=90
        )
        options = core("sampling.schedule").SamplingOptions()
        decoder = self.pack("host.decoder").HostDecoder(model, 0)
        latents = core("pipelines.generate").generate(runtime, decoder, conditioner, [song], options, 0).latents
        core("pipelines.decode").decode(runtime, vae, latents)

    def stage(self, owner, names, reserve):
        there = [entry.model for entry in self.management.current_loaded_models]
        return Stage(
            names[id(owner.model)],
            owner.loaded_size() / owner.model_size(),
            sum(other.loaded_size() for other in there),
            sum(other.loaded_size() for other in there if other.model is not owner.model),
            owner.model.model_offload_buffer_memory,
            reserve,
        )

    def live(self, seen):
        """(name, largest sum of live activations) of each network on the shapes that it saw, on meta."""
        core = self.core
        config, qwen3 = core("dit.config").DiTConfig(), core("qwen3.config").TEXT_ENCODER
        transformer, vae = core("dit.transformer"), core("vae.oobleck")
        networks = {
            "text": core("qwen3.model").Qwen3(qwen3, JOINED, META, BF16),
            "condition": core("dit.condition").ConditionEncoder(config, JOINED, META, BF16),
            "detokenizer": core("dit.codes").AudioDetokenizer(config, JOINED, META, BF16),
            "decoder": transformer.DiT(config, JOINED, META, BF16),
            "vae": vae.Oobleck(core("vae.config").OobleckConfig(), device=META, dtype=BF16).decoder,
        }
        for name, network in networks.items():
            given = [torch.empty(*shape, device=META, dtype=BF16) for shape in seen[name]]
            run = of_a_run(network, *given) if name == "decoder" else lambda run=network, given=given: run(*given)
            yield name, peak_bytes(run)


def of_a_run(decoder, x, context, tokens, time):
    """A step of a run that keeps two sets of keys and values, as `ToldStore` does."""

    def step():
        kept = [decoder.tell(tokens, x.shape[1]) for _ in range(2)]
        return decoder(x, context, kept[1], time)

    return step


def nowhere(module):
    """The module with weights on meta that stay there wherever they are sent: only the host's accounts move."""
    for layer in module.modules():
        layer.to = lambda *place, layer=layer, **more: layer
    return module.requires_grad_(False)


def answer(model, conditioner, vae):
    """Let every network give zeros of its shape; returned is what each of them was given last, as shapes."""
    seen = {}

    def see(name, give):
        def forward(*given):
            seen[name] = [tuple(value.shape) for value in given]
            return give(*given)

        return forward

    def tokens(text, lyrics, timbre):
        return torch.zeros(1, text.shape[1] + lyrics.shape[1] + 1, 2048)

    text, condition = conditioner.text.module, conditioner.condition.module
    text.embed = lambda ids: torch.zeros(*ids.shape, 1024)
    text.forward = see("text", lambda x: x)
    condition.forward = see("condition", tokens)
    condition.null_tokens = lambda count, like: torch.zeros(count, 1, 2048)
    conditioner.code_tokenizer.module.vectors = lambda ids: torch.zeros(1, ids.shape[1], 2048)
    codes, decoder = conditioner.detokenizer.module, model.diffusion_model.decoder
    codes.forward = see("detokenizer", lambda vectors: torch.zeros(1, 5 * vectors.shape[1], 64))
    read = see("decoder", lambda x, *rest: torch.zeros_like(x))
    decoder.forward = lambda *given, **mask: read(*given)
    vae.module.decode = see("vae", lambda latents: torch.zeros(1, 2, 1920 * latents.shape[-1]))
    return seen
