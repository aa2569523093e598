"""SpeedUp: the wish travels with a clone, every sampler follows it, and the song is the same with it and without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "plugins"))

from tape import taped  # noqa: E402


class Watched:
    """Stands for torch.compile and for CUDA graphs on the CPU, and counts what goes through them."""

    def __init__(self, speed):
        self.layers = self.recorded = self.replayed = 0
        speed.compiler.compile = self._compile
        speed.graphs.record, speed.graphs.devices = self._record, ("cpu",)

    def _compile(self, function):
        def run(*args):
            self.layers += 1
            return function(*args)

        return run

    def _record(self, step):
        self.recorded += 1
        watched, tape = self, taped(step)

        class Recording:
            def replay(self):
                watched.replayed += 1
                tape.replay()

        return Recording()


@pytest.fixture
def fast(pack, loaded):
    """(sped-up clone of the model, what goes through compiled layers and recordings)."""
    model, speed = pack("host.speed").speed_up(loaded.model, True, True)
    return model, Watched(speed)


@pytest.fixture
def song(pack, core, loaded):
    """song(model, variant, **options) -> latents of one song by DiTSample's loop."""

    def run(model, variant="turbo", **options):
        generate = core("pipelines.generate")
        loaded.model.model.variant_name = variant
        songs = (core("blueprint").Blueprint(caption="calm piano", seconds=10.0),)
        take = generate.Take(songs, core("sampling.schedule").SamplingOptions(**{"steps": 4, **options}), 5)
        runtime, decoder = pack("host.runtime").HostRuntime(), pack("host.decoder").HostDecoder(model, 5)
        with torch.inference_mode():
            return generate.perform(runtime, decoder, loaded.conditioner, take, generate.Work("text2music")).latents

    return run


@pytest.fixture
def pair(pack, core, loaded):
    """Conditioning of a song for the host's samplers."""
    encode, blueprint = core("pipelines.encode"), core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    with torch.inference_mode():
        batch = encode.encode_songs(pack("host.runtime").HostRuntime(), loaded.conditioner, (blueprint,), 250)
    return pack("host.decoder").conditioning(batch)


def ksample(model, pair, cfg):
    """Latents by the host's own sampler."""
    import comfy.sample

    noise = torch.randn(1, 64, 250, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, 4, cfg, "euler", "simple", *pair, torch.zeros_like(noise), seed=1)


def layers_of(model):
    return len(model.model.diffusion_model.decoder.layers)


def test_the_model_that_went_in_is_left_alone(pack, loaded, fast):
    speed = pack("host.models").SPEED
    assert speed not in loaded.model.model_options["transformer_options"]
    wish = fast[0].model_options["transformer_options"][speed]
    assert fast[0].clone().model_options["transformer_options"][speed] is wish
    assert fast[0].model is loaded.model.model


def test_a_song_is_the_same_and_recorded_once(loaded, fast, song):
    model, watched = fast
    assert torch.equal(song(model), song(loaded.model))
    assert (watched.recorded, watched.replayed, watched.layers) == (1, 3, 2 * layers_of(model))


@pytest.mark.slow
def test_guidance_within_an_interval_is_recorded_once_for_each_number_of_rows(loaded, fast, song):
    model, watched = fast
    options = {"variant": "base", "scale": 7.0, "shift": 1.0, "interval": (0.5, 0.75)}
    assert torch.equal(song(model, **options), song(loaded.model, **options))
    assert (watched.recorded, watched.replayed) == (2, 2)  # times 1, 0.75, 0.5, 0.25: rows 1, 2, 2, 1


@pytest.mark.parametrize("cfg", [1.0, pytest.param(4.0, marks=pytest.mark.slow)])
def test_the_hosts_sampler_follows_too(loaded, fast, pair, cfg):
    model, watched = fast
    assert torch.equal(ksample(model, pair, cfg), ksample(loaded.model, pair, cfg))
    assert (watched.recorded, watched.replayed, watched.layers) == (1, 3, 2 * layers_of(model))


@pytest.mark.slow
def test_song_and_null_one_by_one(loaded, fast, pair, monkeypatch):
    """What the host does when memory is short: two kinds of steps take turns."""
    monkeypatch.setattr(type(loaded.model.model), "memory_required", lambda *_, **__: 1e30)
    model, watched = fast
    assert torch.equal(ksample(model, pair, 4.0), ksample(loaded.model, pair, 4.0))
    assert (watched.recorded, watched.replayed) == (2, 6)


@pytest.fixture
def patch(loaded):
    """patch(model) -> a clone with a change of every up projection, as a LoRA makes it."""

    def add(model):
        clone, weights, random = model.clone(), model.model.state_dict(), torch.Generator().manual_seed(2)
        keys = [key for key in weights if key.endswith("mlp.up_proj.weight") and ".decoder.layers." in key]
        changes = {key: ("diff", (0.2 * torch.randn(weights[key].shape, generator=random),)) for key in keys}
        assert len(clone.add_patches(changes, 1.0)) == len(keys) > 0
        return clone

    return add


def test_streamed_weights_go_the_plain_way_with_a_word(loaded, fast, song, patch, fake_gpu, caplog):
    """The same bits as without the wish, with a LoRA that is patched in at each use."""
    model, watched = fast
    loaded.model.load_device = model.load_device = torch.device("cpu", 0)
    songs = []
    for streaming in (patch(loaded.model), patch(model)):
        fake_gpu(300_000)
        songs.append(song(streaming))
        assert streaming.loaded_size() < streaming.model_size()
    assert torch.equal(*songs)
    assert (watched.recorded, watched.layers) == (0, 0)
    assert len([line for line in caplog.messages if "without compiled layers and CUDA graphs" in line]) == 1


@pytest.mark.slow
def test_hooks_that_change_weights_in_a_run_go_the_plain_way(loaded, fast, pair):
    import comfy.hooks

    (model, watched), (positive, negative) = fast, pair
    key = next(key for key in model.model.state_dict() if key.endswith("layers.0.cross_attn.k_proj.weight"))
    group, hook = comfy.hooks.HookGroup(), comfy.hooks.WeightHook(strength_model=1.0)
    hook.weights = {key: ("diff", (torch.ones_like(model.model.state_dict()[key]),))}
    hook.need_weight_init = False
    group.add(hook)
    hooked = [[tokens, {**facts, "hooks": group}] for tokens, facts in positive]
    ksample(model, (hooked, negative), 1.0)
    assert (watched.recorded, watched.layers) == (0, 0)


@pytest.mark.slow
def test_torch_compiles_the_hosts_layers_with_a_lora_and_without(pack, loaded, song, patch, relative_error):
    """The real compiler: a LoRA on a resident model only changes the weights that the compiled layers are given."""
    model, speed = pack("host.speed").speed_up(loaded.model, True, False)
    before = song(model)
    assert relative_error(before, song(loaded.model)) < 1e-4
    after = song(patch(model))
    assert relative_error(after, song(patch(loaded.model))) < 1e-4
    assert relative_error(after, before) > 1e-3
    assert torch.equal(song(model), before) and speed.compiler.failed == ""


@pytest.fixture
def node(pack):
    """node(**inputs) -> (model, vae, what the node shows)."""

    def run(compile=True, cuda_graphs=False, **connected):
        found = pack("speed").SpeedUp.execute(compile, cuda_graphs, **connected)
        return *found.args, found.ui["text"][0]

    return run


def test_the_node_says_what_will_act(pack, node, loaded):
    model, vae, text = node(model=loaded.model, cuda_graphs=True)
    assert text.splitlines() == [
        "decoder: layers compiled at the first run",
        "CUDA graphs: none on cpu",
        "this rests while the decoder's weights do not all fit on the device",
    ]
    assert pack("host.models").SPEED in model.model_options["transformer_options"] and vae is None


def test_the_node_passes_on_what_is_to_stay(node, loaded):
    assert node(model=loaded.model, vae=loaded.vae, compile=False) == (
        loaded.model,
        loaded.vae,
        "decoder: as it was\nVAE: as it was",
    )
    assert node() == (None, None, "nothing is connected, so nothing is sped up")


def test_wishes_of_two_nodes_add_up(pack, node, loaded):
    SPEED = pack("host.models").SPEED
    compiled, _, _ = node(model=loaded.model)
    both, _, text = node(model=compiled, compile=False, cuda_graphs=True)
    first, second = (model.model_options["transformer_options"][SPEED] for model in (compiled, both))
    assert second.compiler is first.compiler and first.graphs is None and second.graphs is not None
    assert "layers compiled" in text and "CUDA graphs" in text
    assert node(model=both, compile=False)[2] == text  # nothing more is wished, and nothing is lost
    _, _, only_graphs = node(model=loaded.model, compile=False, cuda_graphs=True)
    assert only_graphs == "CUDA graphs: none on cpu"


def test_what_did_not_compile_is_told_where_it_matters(pack, node, loaded):
    model, vae, _ = node(model=loaded.model, vae=loaded.vae)
    line = pack("host.speed").speed_line
    assert line(model) == line(loaded.model) == ""
    model.model_options["transformer_options"][pack("host.models").SPEED].compiler.failed = "no C++ compiler"
    vae.module.compiler.failed = "no C++ compiler"
    assert line(model) == "speed up: the decoder was not compiled: no C++ compiler"
    latent = {"samples": torch.zeros(1, 64, 5), "type": "audio"}
    text = pack("decode").DecodeAudio.execute(vae, latent).ui["text"][0]
    assert text.endswith("speed up: the VAE was not compiled: no C++ compiler")


def test_an_output_without_its_input_is_told(pack, node, loaded):
    model, _, _ = node(vae=loaded.vae)
    with pytest.raises(ValueError, match=r"nothing arrives.*SpeedUp\?.*connect one there"):
        pack("host.models").song_model(model)


@pytest.fixture
def packed_model(pack, tiny_2b_split):
    """packed_model(kind) -> the tiny decoder in eight bits, or with the blocks of a GGUF file in one place."""
    linear, file = pack("host.packed"), tiny_2b_split.model

    def load(kind):
        model = pack("host.loader").load_decoder(file, file, "turbo", "fp32" if kind == "gguf" else "int8")
        layers = model.model.diffusion_model.decoder.layers
        if kind == "gguf":
            block = linear.BLOCKS["Q8_0"]
            layers[0].mlp.up_proj = linear.HostBlockLinear(64, 128, False, dtype=torch.float32, block=block)
        for layer in layers.modules() if kind == "fp8" else ():
            if isinstance(layer, linear.HostPackedLinear):
                layer.weight = torch.nn.Parameter((layer.weight.float() / 2).to(linear.FP8), requires_grad=False)
        return model

    return load


def test_blocks_of_a_gguf_file_are_recorded_and_not_compiled(pack, node, packed_model, monkeypatch):
    """torch would write out each matrix slice by slice; where they lie does not change."""
    model, _, text = node(model=packed_model("gguf"), cuda_graphs=True)
    assert text.splitlines()[0].startswith("decoder: not compiled, because a GGUF file's blocks")
    wish = model.model_options["transformer_options"][pack("host.models").SPEED]
    assert wish.compiler is None and wish.graphs is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_eight_bits_are_compiled_to_the_same(pack, core, packed_model, pair, relative_error, kind):
    model = packed_model(kind)
    fast, speed = pack("host.speed").speed_up(model, True, True)
    speed.graphs.record, speed.graphs.devices = taped, ("cpu",)
    assert relative_error(ksample(fast, pair, 1.0), ksample(model, pair, 1.0)) < 1e-4
    assert (speed.compiler.failed, speed.graphs.failed, speed.waits) == ("", "", False)


def test_a_host_that_brings_weights_at_each_use_is_told_of(node, loaded, monkeypatch):
    monkeypatch.setattr(loaded.model, "is_dynamic", lambda: True, raising=False)
    assert "brings weights in at each use" in node(model=loaded.model)[-1]


def test_what_is_no_decoder_or_vae_is_refused(node, loaded):
    with pytest.raises(ValueError, match="expected an ACE-Step"):
        node(model=loaded.vae)
    with pytest.raises(TypeError, match="vae"):
        node(vae=loaded.model)


def test_the_vae_is_compiled(node, loaded):
    _, vae, text = node(vae=loaded.vae)
    assert vae is not loaded.vae and text == "VAE: compiled at the first use"
