"""A 240 s song at real sizes on a small card: what lies there at each stage, and whether what is reserved is enough.

Weights have sizes and no numbers: nothing computes, every network is placed, streamed and evicted by the host itself.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "layers"))

from livebytes import FUSED, peak_bytes  # noqa: E402

CPU, META, BF16 = torch.device("cpu"), torch.device("meta"), torch.bfloat16
SMALL, LARGE = 3_500_000_000, 1 << 40  # bytes
SECONDS, FRAMES = 240.0, 6000
ORDER = ("text", "condition", "code_tokenizer", "detokenizer", "decoder", "vae")
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


@pytest.fixture
def real(pack, core, fake_gpu):
    """real() -> MODEL, conditioner and VAE of a 2B turbo in bf16, which answer with zeros, and what they were given."""
    runtime, ops = pack("host.runtime"), pack("host.ops").casting_ops()
    config = core("dit.config").DiTConfig(is_turbo=True, model_version="turbo")
    classes = {
        "text": (core("qwen3.model").Qwen3, core("qwen3.config").TEXT_ENCODER),
        "condition": (core("dit.condition").ConditionEncoder, config),
        "code_tokenizer": (core("dit.codes").AudioTokenizer, config),
        "detokenizer": (core("dit.codes").AudioDetokenizer, config),
        "vae": (core("vae.oobleck").Oobleck, core("vae.config").OobleckConfig()),
    }

    def build():
        import comfy.model_management as management

        fake_gpu(LARGE)
        card = management.get_torch_device()

        def handle(network, config):
            return runtime.handle(nowhere(network(config, ops, META, BF16)), BF16, card, CPU)

        parts = {name: handle(*row) for name, row in classes.items()}
        vae = parts.pop("vae")
        model = pack("host.models").SongModel(config, "turbo", BF16, BF16)
        words = SimpleNamespace(encode_prompt=lambda text: tuple(range(len(text.split()) + 60)))
        silence = core("dit.silence").Silence(torch.zeros(15_000, 64))
        conditioner = core("pipelines.encode").ConditionerModels(
            **parts, tokenizer=words, silence=silence, config=config, variant="turbo"
        )
        return runtime.patcher(nowhere(model), card, CPU), conditioner, vae, answer(model, conditioner, vae)

    return build


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


@pytest.fixture
def stages(pack, core, fake_gpu, real, monkeypatch):
    """stages(budget) -> stages of a song with codes on a card of so many bytes; what lay there last; shapes seen."""
    import comfy.model_management as management

    place = management.load_models_gpu

    def run(budget, inference=0, reserved=0):
        model, conditioner, vae, seen = real()
        handles = {name: getattr(conditioner, name).owner for name in ("text", "condition", "code_tokenizer")}
        handles |= {"detokenizer": conditioner.detokenizer.owner, "vae": vae.owner}
        names = {id(owner.model): name for name, owner in handles.items()}
        table = []

        def look(models, memory_required=0, minimum_memory_required=None, **more):
            place(models, memory_required, minimum_memory_required=minimum_memory_required, **more)
            (owner,) = models
            least = memory_required if minimum_memory_required is None else minimum_memory_required
            there = [entry.model for entry in management.current_loaded_models]
            table.append(
                Stage(
                    names.get(id(owner.model), "decoder"),
                    owner.loaded_size() / owner.model_size(),
                    sum(other.loaded_size() for other in there),
                    sum(other.loaded_size() for other in there if other.model is not owner.model),
                    owner.model.model_offload_buffer_memory,
                    int(least),
                )
            )

        monkeypatch.setattr(management, "load_models_gpu", look)
        fake_gpu(budget)
        monkeypatch.setattr(management, "minimum_inference_memory", lambda *_: inference)
        monkeypatch.setattr(management, "extra_reserved_memory", lambda *_: reserved)
        runtime = pack("host.runtime").HostRuntime()
        song = core("blueprint").Blueprint(
            caption="calm piano", lyrics=LYRICS, seconds=SECONDS, codes=tuple(range(1200)), bpm=90
        )
        options = core("sampling.schedule").SamplingOptions()
        decoder = pack("host.decoder").HostDecoder(model, 0)
        latents = core("pipelines.generate").generate(runtime, decoder, conditioner, [song], options, 0).latents
        core("pipelines.decode").decode(runtime, vae, latents)
        names[id(model.model)] = "decoder"
        left = {names[id(e.model.model)] for e in management.current_loaded_models if e.model.loaded_size()}
        return table, left, seen

    return run


CARDS = {  # bytes of the card, and what the host keeps of it for computing and for others
    "3.5-GB": (SMALL, 0, 0),
    "3.5-GB-as-hosts-do": (SMALL, int(1.2 * 1024**3), 400 << 20),
    "1-GB": (1_000_000_000, 0, 0),
}


@pytest.mark.parametrize("card", CARDS)
def test_a_long_song_stays_within_a_small_card(stages, card):
    """Weights, buffers and reservation at every stage; what ran once is gone before the decoder lacks room."""
    table, _, _ = stages(*CARDS[card])
    print(card, *table, sep="\n")
    assert [stage.network for stage in table] == [*ORDER]
    assert max(stage.total for stage in table) <= CARDS[card][0]
    share = {stage.network: stage.share for stage in table}
    assert (share["decoder"] < 1.0) == (card != "3.5-GB"), "streamed"
    assert (share["condition"] < 1.0) == (card == "1-GB"), "streamed"
    decoder = next(stage for stage in table if stage.network == "decoder")
    assert share["decoder"] == 1.0 or decoder.others == 0, "the decoder waits for weights while others lie there"


def test_nothing_leaves_a_card_that_holds_all(stages):
    table, left, _ = stages(LARGE)
    assert set(left) == set(ORDER) and min(stage.share for stage in table) == 1.0
    assert all(later.weights > before.weights for before, later in zip(table, table[1:], strict=False))


def test_the_vae_takes_shorter_tiles_before_others_leave(stages):
    """Room for everything and a tile of a few seconds: nobody has to go for a longer one."""
    whole, _, seen = stages(LARGE)
    weights = whole[-1].weights
    table, left, short = stages(int(weights + 0.45e9))
    assert set(left) == set(ORDER) and min(stage.share for stage in table) == 1.0
    assert 128 <= short["vae"][0][-1] < seen["vae"][0][-1]
    assert table[-1].reserve < whole[-1].reserve


def test_reservations_cover_what_lives_at_once(stages, core):
    """Each against the largest sum of live activations of the same network on the same shapes, on meta."""
    table, _, seen = stages(SMALL)
    reserved = {stage.network: stage.reserve for stage in table}
    config = core("dit.config").DiTConfig(
        num_hidden_layers=2, num_lyric_encoder_hidden_layers=2, num_timbre_encoder_hidden_layers=2
    )
    qwen3 = replace(core("qwen3.config").TEXT_ENCODER, num_hidden_layers=2)
    transformer, vae = core("dit.transformer"), core("vae.oobleck")
    networks = {
        "text": core("qwen3.model").Qwen3(qwen3, FUSED, META, BF16),
        "condition": core("dit.condition").ConditionEncoder(config, FUSED, META, BF16),
        "detokenizer": core("dit.codes").AudioDetokenizer(config, FUSED, META, BF16),
        "decoder": transformer.DiT(config, FUSED, META, BF16),
        "vae": vae.Oobleck(core("vae.config").OobleckConfig(), device=META, dtype=BF16).decoder,
    }
    for name, network in networks.items():
        given = [torch.empty(*shape, device=META, dtype=BF16) for shape in seen[name]]
        true = peak_bytes(lambda network=network, given=given: network(*given))
        print(f"{name:12} {true / 1e6:7.1f} MB live, {reserved[name] / 1e6:7.1f} MB reserved")
        assert true <= reserved[name]
