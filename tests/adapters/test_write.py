"""Files that we write, read back by ourselves, by PEFT and by diffusers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import peft
import pytest
import torch
from safetensors import safe_open

from acestep_models.adapters import write
from acestep_models.adapters.delta import DoRA, LowRank
from acestep_models.adapters.files import read_adapter
from acestep_models.adapters.write import FAMILIES, write_adapter
from acestep_models.dit.transformer import DiT
from acestep_models.loading.keymaps import DIFFUSERS

KINDS = ["lora", "lokr", "lokr_whole", "loha", "full", "dora"]
HOLDS = {
    "peft": ["lora", "dora"],
    "single": KINDS,
    "kohya": KINDS,
    "diffusers": ["lora"],
}
PAIRS = [(family, kind) for family, kinds in HOLDS.items() for kind in kinds]
SIZES = {
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "in_channels", "audio_acoustic_hidden_dim", "patch_size", "encoder_hidden_size"),
    *("sliding_window", "rope_theta", "rms_norm_eps"),
}
EVERYWHERE = ("q_proj", "o_proj", "down_proj", "condition_embedder", "proj_in.1", "time_embed.linear_1")


def place(folder, family):
    return folder / ("song" if family == "peft" else "song.safetensors")


def read_file(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


def check_same(got, expected):
    """Equal names and kinds, and every effect on a weight to 1e-6."""
    assert got.deltas.keys() == expected.deltas.keys()
    for name, delta in expected.deltas.items():
        assert got.deltas[name].kind == delta.kind
        whole = delta.matrix()
        assert float((got.deltas[name].matrix() - whole).abs().max()) <= 1e-6 * float(whole.abs().max())
        if isinstance(delta, DoRA):
            assert torch.equal(got.deltas[name].magnitude, delta.magnitude)


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_every_family_gives_back_what_it_was_given(family, kind, make_adapter, tmp_path):
    names = ("q_proj", "o_proj") if kind == "dora" else EVERYWHERE
    adapter = make_adapter(kind, names=names, base_variant="turbo", trigger="sax", trigger_position="prepend")
    path = write_adapter(adapter, place(tmp_path, family), family)
    got = read_adapter(path)
    check_same(got, adapter)
    assert got.skipped == () and got.facts.notes == ()
    facts = got.facts
    assert (facts.base_variant, facts.trigger, facts.trigger_position) == ("turbo", "sax", "prepend")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("start", ["peft", "single", "kohya", "diffusers"])
def test_conversions_go_round_without_loss(start, make_adapter, tmp_path):
    adapter = make_adapter(names=EVERYWHERE)
    path = write_adapter(adapter, place(tmp_path / "first", start), start)
    for family in ("kohya", "diffusers", "single", "peft", start):
        path = write_adapter(read_adapter(path), place(tmp_path / path.parent.name / family, family), family)
    check_same(read_adapter(path), adapter)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_loads_our_folder(kind, make_adapter, decoder, song, play, tmp_path, relative_error):
    adapter = make_adapter(kind, names=("q_proj", "v_proj", "o_proj", "up_proj", "condition_embedder"))
    path = write_adapter(adapter, tmp_path / "song", "peft")
    copy = DiT(decoder.config)
    copy.load_state_dict(decoder.state_dict())
    model = peft.PeftModel.from_pretrained(copy, path).eval()
    loaded = {name for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert loaded == set(adapter.deltas)
    with torch.no_grad():
        got, plain = model(**song), decoder(**song)
    expected = play((adapter.deltas, 1.0))
    assert relative_error(plain, expected) > 0.01
    assert relative_error(got, expected) < 1e-5
    for name, delta in adapter.deltas.items():
        module = model.base_model.model.get_submodule(name)
        assert relative_error(module.get_delta_weight("default"), delta.matrix()) < 1e-6


def test_the_single_file_has_the_hosts_names_and_a_plain_alpha(make_adapter, tmp_path):
    adapter = make_adapter(names=("layers.0.self_attn.q_proj",))
    (name,) = adapter.deltas
    delta = adapter.deltas[name]
    tensors, _ = read_file(write_adapter(adapter, tmp_path / "song.safetensors", "single"))
    start = f"diffusion_model.decoder.{name}"
    assert set(tensors) == {f"{start}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert torch.equal(tensors[f"{start}.lora_down.weight"], delta.down)
    assert torch.equal(tensors[f"{start}.lora_up.weight"], delta.up)
    alpha = tensors[f"{start}.alpha"]
    assert (alpha.shape, alpha.dtype, alpha.item()) == ((), torch.float32, delta.scale * delta.rank)


def test_names_of_the_other_families(make_adapter, tmp_path):
    adapter = make_adapter("dora", names=("layers.1.self_attn.o_proj",))
    kohya, _ = read_file(write_adapter(adapter, tmp_path / "kohya.safetensors", "kohya"))
    assert sorted(kohya) == [
        f"lora_unet_decoder_layers_1_self_attn_o_proj.{end}"
        for end in ("alpha", "dora_scale", "lora_down.weight", "lora_up.weight")
    ]
    assert kohya["lora_unet_decoder_layers_1_self_attn_o_proj.dora_scale"].shape == (32, 1)
    folder = write_adapter(adapter, tmp_path / "folder", "peft")
    tensors, _ = read_file(folder / "adapter_model.safetensors")
    start = "base_model.model.layers.1.self_attn.o_proj"
    assert tensors[f"{start}.lora_magnitude_vector"].shape == (32,)
    plain = make_adapter(names=("layers.1.self_attn.o_proj", "proj_in.1"))
    tensors, _ = read_file(write_adapter(plain, tmp_path / "diffusers.safetensors", "diffusers"))
    assert sorted(tensors) == [
        f"transformer.{module}.lora_{half}.weight"
        for module in ("layers.1.self_attn.to_out.0", "proj_in_conv")
        for half in "AB"
    ]


def test_pefts_config_names_every_module_with_its_rank_and_alpha(make_adapter, tmp_path):
    adapter = make_adapter()
    folder = write_adapter(adapter, tmp_path / "song", "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(adapter.deltas)
    for name, delta in adapter.deltas.items():
        assert config["rank_pattern"].get(name, config["r"]) == delta.rank
        assert config["alpha_pattern"].get(name, config["lora_alpha"]) == delta.scale * delta.rank
    assert config["rank_pattern"] and config["alpha_pattern"] and config["use_dora"] is False


def test_diffusers_plays_our_file_at_its_strength(make_adapter, decoder, song, play, tmp_path, relative_error):
    """Ranks and alphas differ from module to module, and reach it by the header alone."""
    from diffusers import AceStepTransformer1DModel
    from diffusers.loaders.peft import PeftAdapterMixin

    class Loadable(AceStepTransformer1DModel, PeftAdapterMixin):
        pass

    config = {key: value for key, value in asdict(decoder.config).items() if key in SIZES}
    oracle = Loadable(**config).eval()
    state = {DIFFUSERS["decoder"].theirs(key): value for key, value in decoder.state_dict().items()}
    oracle.load_state_dict(state)
    adapter = make_adapter(names=("q_proj", "o_proj", "down_proj", "condition_embedder"))
    path = write_adapter(adapter, tmp_path / "song.safetensors", "diffusers")
    oracle.load_lora_adapter(str(tmp_path), weight_name=path.name, prefix="transformer")
    order = (song["x"], song["t"], song["t"], song["tokens"], song["context"])
    with torch.no_grad():
        got = oracle(*order, return_dict=False)[0]
    assert relative_error(got, play((adapter.deltas, 1.0))) < 1e-5


def test_whole_factors_of_lokr_are_read_at_scale_one_by_everybody(make_delta, make_adapter, tmp_path):
    """LyCORIS and ComfyUI ignore alpha there, so that the scale has to be in the numbers."""
    delta = make_delta("lokr_whole", (8, 6), scale=0.25)
    adapter = replace(make_adapter(), deltas={"layers.0.mlp.up_proj": delta})
    tensors, header = read_file(write_adapter(adapter, tmp_path / "song.safetensors", "single"))
    start = "diffusion_model.decoder.layers.0.mlp.up_proj"
    whole = torch.kron(tensors[f"{start}.lokr_w1"], tensors[f"{start}.lokr_w2"])
    torch.testing.assert_close(whole, delta.matrix())
    assert tensors[f"{start}.alpha"].item() == json.loads(header["lokr_config"])["linear_dim"] == 1


def test_the_header_is_kept_and_what_spoke_of_the_old_file_is_not(make_adapter, tmp_path):
    adapter = make_adapter(metadata={"steps": "900", "rank": "64", "lora_adapter_metadata": "{}"}, conditioning="full")
    _, header = read_file(write_adapter(adapter, tmp_path / "song.safetensors", "single"))
    assert header == {"format": "pt", "steps": "900", "conditioning": "full"}


@pytest.mark.parametrize(
    ("family", "kind", "message"),
    [
        ("peft", "lokr", "'peft' cannot hold LoKr.*single or kohya"),
        ("diffusers", "dora", "'diffusers' cannot hold DoRA.*single or kohya"),
        ("diffusers", "full", "cannot hold whole matrices"),
        ("gguf", "lora", "expected one of peft, single, kohya, diffusers, got 'gguf'"),
    ],
)
def test_a_family_that_cannot_hold_it_says_which_can(family, kind, message, make_adapter, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_adapter(make_adapter(kind), place(tmp_path, family), family)
    assert list(tmp_path.iterdir()) == []


def test_what_no_file_can_say_is_an_error(make_adapter, tmp_path):
    path = tmp_path / "song.safetensors"
    dora = make_adapter("dora", names=("q_proj",))
    weaker = replace(dora, deltas={name: delta.scaled(0.5) for name, delta in dora.deltas.items()})
    mixed = replace(dora, deltas={**dora.deltas, **make_adapter(names=("o_proj",)).deltas})
    odd = replace(dora, deltas={"layers.0.mlp.new_proj": make_adapter().deltas["layers.0.mlp.down_proj"]})
    for adapter, family, message in (
        (weaker, "single", "at another strength than 1"),
        (mixed, "peft", "either plain LoRAs or DoRAs"),
        (replace(dora, deltas={}), "single", "nothing to write"),
        (odd, "diffusers", "diffusers has no module for 'layers.0.mlp.new_proj'"),
    ):
        with pytest.raises(ValueError, match=message):
            write_adapter(adapter, tmp_path / "song" if family == "peft" else path, family)
    with pytest.raises(ValueError, match="ends in .safetensors"):
        write_adapter(make_adapter(), tmp_path / "song.pt", "single")


def test_tensors_may_share_memory_or_lie_crosswise(make_adapter, tmp_path):
    """Tied modules and views, as models and merges leave them; what is in order is not copied."""
    down, up = torch.randn(6, 2).T, torch.randn(32, 4)[:, :2]
    tied = {f"layers.{layer}.self_attn.q_proj": LowRank(down, up, 0.5) for layer in (0, 1)}
    adapter = replace(make_adapter(), deltas=tied)
    check_same(read_adapter(write_adapter(adapter, tmp_path / "song.safetensors", "single")), adapter)
    plain, seen = torch.randn(4, 3), set()
    assert write._stored(plain, seen).data_ptr() == plain.data_ptr()
    assert write._stored(plain, seen).data_ptr() != plain.data_ptr()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_replaced_and_a_broken_write_leaves_nothing(family, make_adapter, tmp_path, monkeypatch):
    adapter, path = make_adapter(names=("q_proj",)), place(tmp_path, family)

    def cut_off(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(write, "save_file", cut_off)
        with pytest.raises(OSError, match="disk is full"):
            write_adapter(adapter, path, family)
    assert list(tmp_path.iterdir()) == []
    write_adapter(adapter, path, family)
    with pytest.raises(ValueError, match="is there already and is not replaced"):
        write_adapter(make_adapter("lora", seed=1), path, family)
    check_same(read_adapter(path), adapter)
