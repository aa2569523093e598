"""InspectLoRA, ConvertLoRA, MergeLoRAs and ExtractLoRA as functions; tests/host runs them in ComfyUI."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

SELF, MLP = "layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"
ALL = "none", 1.0, "none", 1.0


@pytest.fixture(scope="module")
def model(pack, tiny_2b_split):
    """The tiny decoder as LoadDiT gives it out; every test works with clones of it."""
    return pack("host.loader").load_decoder(tiny_2b_split.model, tiny_2b_split.model, "turbo", "fp32")


@pytest.fixture
def on_card(pack, fake_gpu, tiny_2b_split):
    """on_card(part) -> the decoder on a card with room for so much of it; part of its weights are streamed."""
    fake_gpu(1 << 40)
    owner = pack("host.loader").load_decoder(tiny_2b_split.model, tiny_2b_split.model, "turbo", "fp32")

    def budget(part):
        fake_gpu(int(part * owner.model_size()))
        return owner

    return budget


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """ComfyUI's loras folder, its own for each test."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    table = dict(folder_paths.folder_names_and_paths)
    table["loras"] = ([str(folder)], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


@pytest.fixture
def weights(model):
    """weights(model=model) -> the decoder's own tensors, none of them patched, copied."""
    decoder = model.model.diffusion_model.decoder
    return lambda: {key: value.clone() for key, value in decoder.state_dict().items()}


@pytest.fixture
def write(shelf, weights, rng):
    """write(name, seed, rank, alpha, modules) -> {module: scale * up @ down} of a file in PEFT's names with alphas."""

    def make(name, seed=0, rank=3, alpha=6.0, modules=(SELF, MLP), metadata=None):
        tensors, deltas = {}, {}
        for number, module in enumerate(modules):
            out, width = weights()[f"{module}.weight"].shape
            down = torch.randn(rank, width, generator=rng(seed * 100 + 2 * number))
            up = 0.02 * torch.randn(out, rank, generator=rng(seed * 100 + 2 * number + 1))
            tensors[f"base_model.model.{module}.lora_A.weight"] = down
            tensors[f"base_model.model.{module}.lora_B.weight"] = up
            if alpha is not None:
                tensors[f"base_model.model.{module}.alpha"] = torch.tensor(alpha)
            deltas[module] = (1.0 if alpha is None else alpha / rank) * (up.double() @ down.double())
        save_file(tensors, shelf / f"{name}.safetensors", metadata)
        return deltas

    return make


@pytest.fixture
def run(pack, shelf):
    """run("ConvertLoRA", ...) -> the node's output and what it says."""

    def go(node, *values, **named):
        output = getattr(pack("lora_tools"), node).execute(*values, **named)
        return output.args[0], output.ui["text"][0]

    return go


@pytest.fixture
def apply(pack, model):
    """apply(entry, strength, onto) -> the MODEL that ApplyLoRA gives out."""
    return lambda entry, strength=1.0, onto=None: (
        pack("lora").ApplyLoRA.execute(onto or model, entry, strength, 1.0, 1.0, 1.0, 1.0, "", -1.0).args[0]
    )


@pytest.fixture
def deltas(pack):
    """deltas(entry) -> {module: matrix} of an entry of the list."""
    return lambda entry: {name: d.matrix() for name, d in pack("host.loras").load_lora(entry).deltas.items()}


def check_same(found, expected, bound=1e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].double() - value).abs().max() <= bound * value.abs().max(), name


def test_inspect_says_what_is_known(run, write, shelf):
    said = {"base_variant": "turbo", "trigger": "zorp", "trigger_position": "prepend", "steps": "5" * 400}
    write("jazz", metadata=said)
    text, shown = run("InspectLoRA", "jazz.safetensors", -1.0)
    lines = text.splitlines()
    assert text == shown
    assert lines[0] == "lora: jazz.safetensors: LoRA for 2 modules, PEFT"
    assert "rank: 3, alpha: 6, scale: 2" in lines
    assert "modules: 2 (1 self attention, 1 MLP; layers 0-1)" in lines
    assert "trained on: turbo" in lines and "trigger: zorp (prepend)" in lines
    assert f"steps: {'5' * 300}..." in lines


def test_inspect_without_alpha_takes_the_given_one(run, write):
    write("bare", alpha=None)
    assert "scale: 1" in run("InspectLoRA", "bare.safetensors", -1.0)[0]
    assert "rank: 3, alpha: 12, scale: 4" in run("InspectLoRA", "bare.safetensors", 12.0)[0]


def test_layers_are_counted_in_ranges(pack):
    ranges = pack("lora_summary")._ranges
    assert [ranges(numbers) for numbers in ([0], [0, 1, 2, 5], [1, 3, 4])] == ["0", "0-2, 5", "1, 3-4"]


@pytest.mark.parametrize("family", ["single", "peft", "kohya", "diffusers"])
def test_convert_keeps_what_it_does(run, write, shelf, deltas, pack, family):
    expected = write("jazz")
    made, text = run("ConvertLoRA", "jazz.safetensors", family, "out", 0, -1.0)
    assert made == ("out_00001_" if family == "peft" else "out_00001_.safetensors")
    assert text.splitlines()[:2] == [f"saved: loras/{made}", "from: jazz.safetensors"]
    assert made in pack("host.loras").lora_names()
    check_same(deltas(made), expected)
    assert sorted(os.listdir(shelf)) == sorted(["jazz.safetensors", made])  # no draft is left


def test_convert_writes_an_alpha_that_was_given(run, write, shelf, deltas):
    expected = write("bare", alpha=None)
    made, _ = run("ConvertLoRA", "bare.safetensors", "single", "out", 0, 6.0)
    check_same(deltas(made), {name: 2 * value for name, value in expected.items()})
    assert load_file(shelf / made)[f"diffusion_model.decoder.{SELF}.alpha"].item() == 6.0


def test_convert_to_a_rank_loses_the_rest_of_the_singular_values(run, write, deltas):
    expected = write("jazz")
    made, text = run("ConvertLoRA", "jazz.safetensors", "single", "small", 2, -1.0)
    lost = 0.0
    for name, matrix in deltas(made).items():
        error = torch.linalg.matrix_norm(expected[name] - matrix.double())
        singular = torch.linalg.svdvals(expected[name])
        assert error == pytest.approx(singular[2:].norm().item(), rel=1e-4)
        lost += float(error) ** 2
    whole = sum(float(value.norm()) ** 2 for value in expected.values())
    assert f"keeps {1 - lost / whole:.1%} of the change" in text and "rank: 2," in text


def test_merge_is_the_sum_at_the_strengths(run, write, deltas):
    one, two, three = write("a", 1), write("b", 2, rank=2, modules=(MLP,)), write("c", 3)
    given = "a.safetensors", 0.5, "b.safetensors", -1.5, "single", "sum", 0, -1.0, "c.safetensors", 2.0, "none", 1.0
    made, text = run("MergeLoRAs", *given)
    expected = {SELF: 0.5 * one[SELF] + 2 * three[SELF], MLP: 0.5 * one[MLP] - 1.5 * two[MLP] + 2 * three[MLP]}
    check_same(deltas(made), expected)
    lines = text.splitlines()
    assert lines[1:4] == ["from: a.safetensors at 0.5", "from: b.safetensors at -1.5", "from: c.safetensors at 2"]
    assert any(line.startswith("rank: 6, 8,") for line in lines)
    made, text = run("MergeLoRAs", *given[:6], 8, *given[7:])
    check_same(deltas(made), expected, 1e-5)
    assert "nothing is lost" in text


def test_merge_of_nothing_is_said(run, write, shelf):
    write("a")
    with pytest.raises(ValueError, match="every strength is 0"):
        run("MergeLoRAs", "a.safetensors", 0.0, "a.safetensors", 0.0, "single", "x", 0, -1.0, *ALL)
    assert os.listdir(shelf) == ["a.safetensors"]


def test_extract_finds_what_apply_put_on(run, write, model, apply, deltas, weights):
    before, expected = weights(), write("jazz")
    tuned = apply("jazz.safetensors", 0.7)
    made, text = run("ExtractLoRA", tuned, model, 3, "single", "found")
    check_same(deltas(made), {name: 0.7 * value for name, value in expected.items()}, 1e-5)
    assert "trained on: turbo" in text and "rank: 3," in text
    assert weights().keys() == before.keys() and all(torch.equal(weights()[key], before[key]) for key in before)
    assert not model.patches and len(tuned.patches) == 2


@pytest.mark.parametrize("part", [2.0, 0.5])
def test_extract_sees_the_same_while_patches_lie_in_the_weights(run, write, on_card, apply, deltas, part):
    import comfy.model_management as management

    expected, base = write("jazz"), on_card(part)
    tuned = apply("jazz.safetensors", 1.0, base)
    management.load_models_gpu([tuned], memory_required=0)
    assert (tuned.loaded_size() < tuned.model_size()) == (part < 1)
    assert bool(tuned.backup) or part < 1
    for pair, sign in (((tuned, base), 1.0), ((base, tuned), -1.0)):
        made, _ = run("ExtractLoRA", *pair, 3, "single", "found")
        check_same(deltas(made), {name: sign * value for name, value in expected.items()}, 1e-5)


def test_extract_of_several_is_their_sum(run, write, model, apply, deltas):
    one, two = write("a", 1), write("b", 2)
    tuned = apply("b.safetensors", -1.0, apply("a.safetensors", 0.5))
    made, _ = run("ExtractLoRA", tuned, model, 6, "peft", "both")
    check_same(deltas(made), {name: 0.5 * one[name] - two[name] for name in one}, 1e-5)


def test_extract_counts_raw_parameters_out_loud(run, write, model, apply):
    write("jazz")
    tuned = apply("jazz.safetensors")
    key = "diffusion_model.decoder.scale_shift_table"
    shape = model.model.state_dict()[key].shape
    assert tuned.add_patches({key: ("diff", (torch.ones(shape),))}, 1.0) == [key]
    _, text = run("ExtractLoRA", tuned, model, 3, "single", "found")
    assert "scale_shift_table: was changed too, but a LoRA changes matrices only" in text


def test_extract_names_what_does_not_fit(run, write, model, shelf, core):
    with pytest.raises(ValueError, match="the two models have the same matrices"):
        run("ExtractLoRA", model, model.clone(), 3, "single", "x")
    with pytest.raises(ValueError, match="^model_base: model: nothing arrives"):
        run("ExtractLoRA", model, None, 3, "single", "x")
    assert os.listdir(shelf) == []


def test_extract_refuses_decoders_of_two_sizes(run, model, pack, model_folders, tiny_xl_split):
    root = tiny_xl_split.model.parents[1]
    xl = pack("host.loader").load_decoder(tiny_xl_split.model, tiny_xl_split.model, "turbo", "fp32")
    assert root.is_dir()
    with pytest.raises(ValueError, match="^model_base: expected a decoder like model_tuned, which has width"):
        run("ExtractLoRA", model, xl, 3, "single", "x")


def test_extract_warns_of_what_acts_only_while_it_runs(run, write, model, apply):
    write("jazz")
    tuned = apply("jazz.safetensors")
    tuned.add_weight_wrapper(f"diffusion_model.decoder.{SELF}.weight", lambda weight: weight)
    _, text = run("ExtractLoRA", tuned, model, 3, "single", "x")
    assert "warning: model_tuned has weight wrappers, which act only while it runs: they are not in the LoRA" in text


def test_names_that_are_none_are_refused_at_once(pack, run, write, shelf):
    write("jazz")
    for name in ("", "../x", "a/b"):
        with pytest.raises(ValueError, match="^name: expected"):
            run("ConvertLoRA", "jazz.safetensors", "single", name, 0, -1.0)
        said = pack("lora_tools").ConvertLoRA.validate_inputs("jazz.safetensors", None, name)
        assert str(said).startswith("name: expected"), name
    assert os.listdir(shelf) == ["jazz.safetensors"]


def test_entries_that_are_gone_are_named_by_their_input(pack, run, shelf):
    tools = pack("lora_tools")
    assert "lora: 'x' is not in" in tools.InspectLoRA.validate_inputs("x")
    assert "lora_2: 'x' is not in" in tools.MergeLoRAs.validate_inputs(None, "x", "single", "fine", -1.0, "none", None)
    assert tools.MergeLoRAs.validate_inputs(name="fine", lora_3="none") is True
    assert "family: expected one of" in tools.ExtractLoRA.validate_inputs("onnx", "fine")
    with pytest.raises(ValueError, match="^lora_3: 'x' is not in"):
        run("MergeLoRAs", "none", 1.0, "none", 1.0, "single", "y", 0, -1.0, "x", 1.0, "none", 1.0)


def test_what_a_family_cannot_hold_says_which_can(run, write, shelf, rng, weights):
    out, width = weights()[f"{SELF}.weight"].shape
    factors = {"w1": torch.randn(4, 4, generator=rng(1)), "w2": torch.randn(out // 4, width // 4, generator=rng(2))}
    named = {f"lycoris_{SELF.replace('.', '_')}.lokr_{name}": value for name, value in factors.items()}
    save_file(named, shelf / "kr.safetensors")
    with pytest.raises(ValueError, match=r"^x\.safetensors: 'diffusers' cannot hold LoKr.*Choose single or kohya"):
        run("ConvertLoRA", "kr.safetensors", "diffusers", "x", 0, -1.0)
    with pytest.raises(ValueError, match="family: expected one of .*; got 'onnx'"):
        run("ConvertLoRA", "kr.safetensors", "onnx", "x", 0, -1.0)
    made, _ = run("ConvertLoRA", "kr.safetensors", "diffusers", "x", out, -1.0)
    assert made == "x_00001_.safetensors"
    assert sorted(os.listdir(shelf)) == ["kr.safetensors", made]


@pytest.fixture
def dora(shelf, weights, rng):
    """dora.safetensors with one module."""
    weight = weights()[f"{SELF}.weight"]
    parts = {
        "lora_A.weight": torch.randn(2, weight.shape[1], generator=rng(1)),
        "lora_B.weight": 0.02 * torch.randn(weight.shape[0], 2, generator=rng(2)),
        "lora_magnitude_vector": 1.1 * weight.float().norm(dim=1),
        "alpha": torch.tensor(4.0),
    }
    save_file({f"base_model.model.{SELF}.{part}": value for part, value in parts.items()}, shelf / "dora.safetensors")
    return "dora.safetensors"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("family", ["single", "kohya", "peft"])
def test_a_dora_elsewhere_is_said(run, dora, family, rank):
    words = "a DoRA plays right in Apply LoRA and PEFT; ComfyUI's own loader takes the lengths before the change"
    _, text = run("ConvertLoRA", dora, family, "out", rank, -1.0)
    assert (words in text) == (family != "peft") and "DoRA for 1 module," in text
    _, text = run("MergeLoRAs", dora, 1.0, dora, 0.0, family, "sum", rank, -1.0, *ALL)
    assert (words in text) == (family != "peft")


def test_no_word_of_dora_where_there_is_none(run, write):
    write("jazz")
    assert "DoRA" not in run("ConvertLoRA", "jazz.safetensors", "single", "out", 0, -1.0)[1]


def test_a_guessed_strength_is_said_and_stays_one(run, write, deltas):
    one, two, words = write("bare", 1, alpha=None), write("known", 2), "warning: written with a guessed strength"
    for made, text in (
        run("ConvertLoRA", "bare.safetensors", "single", "out", 0, -1.0),
        run("ConvertLoRA", "bare.safetensors", "peft", "out", 0, -1.0),
        run("ConvertLoRA", "bare.safetensors", "single", "out", 2, -1.0),
    ):
        assert words in text, made
    pair = "bare.safetensors", 1.0, "known.safetensors", 1.0, "single", "sum", 0
    made, text = run("MergeLoRAs", *pair, -1.0, *ALL)
    assert "warning: bare.safetensors says no alpha and none was given: its part is a guess" in text
    assert "warning: known" not in text
    check_same(deltas(made), {name: one[name] + two[name] for name in one})
    made, text = run("MergeLoRAs", *pair, 6.0, *ALL)
    assert "warning" not in text
    check_same(deltas(made), {name: 2 * one[name] + two[name] for name in one})
    assert words not in run("ConvertLoRA", "bare.safetensors", "single", "out", 0, 6.0)[1]


@pytest.mark.parametrize("alpha", [0, -0.5, -2, float("nan"), 1e6])
def test_an_alpha_that_is_none_is_refused(pack, run, write, apply, model, alpha):
    write("jazz")
    words = r"^alpha: expected -1 \(as in the file\) or a number above 0, at most 100000; got"
    nodes = [getattr(pack(f"lora{part}"), f"{name}") for part, name in (("", "ApplyLoRA"), ("", "HookLoRA"))]
    nodes += [getattr(pack("lora_tools"), name) for name in ("InspectLoRA", "ConvertLoRA", "MergeLoRAs")]
    for node in nodes:
        assert str(node.validate_inputs(alpha=alpha)).startswith(words[1:16]), node
        assert all(node.validate_inputs(alpha=good) is True for good in (None, -1, -1.0, 0.5, 1e5))
    with pytest.raises(ValueError, match=words):
        run("InspectLoRA", "jazz.safetensors", alpha)
    with pytest.raises(ValueError, match=words):
        pack("lora").ApplyLoRA.execute(model, "jazz.safetensors", 1.0, 1.0, 1.0, 1.0, 1.0, "", alpha)


def test_other_is_what_stands_outside_attention_and_mlp(pack, write, model):
    write("jazz", modules=(SELF, MLP, "time_embed.linear_1"))
    names = {}
    for other, layers in ((1.0, ""), (0.0, ""), (1.0, "0"), (0.0, "0")):
        node = pack("lora").ApplyLoRA.execute(model, "jazz.safetensors", 1.0, 1.0, 1.0, 1.0, other, layers, -1.0)
        names[other, layers] = {key.split("decoder.")[1].removesuffix(".weight") for key in node.args[0].patches}
    assert names == {
        (1.0, ""): {SELF, MLP, "time_embed.linear_1"},
        (0.0, ""): {SELF, MLP},
        (1.0, "0"): {SELF, "time_embed.linear_1"},
        (0.0, "0"): {SELF},
    }


def test_extract_asks_the_host_for_room_first(run, write, model, apply, monkeypatch):
    import comfy.model_management as management

    write("jazz")
    asked, largest = [], max(weight.numel() for weight in model.model.diffusion_model.decoder.parameters())
    monkeypatch.setattr(management, "free_memory", lambda size, device: asked.append((size, device)))
    run("ExtractLoRA", apply("jazz.safetensors"), model, 3, "single", "found")
    assert asked == [(6 * 4 * largest + management.minimum_inference_memory(), management.get_torch_device())]


def counts(model):
    """What could grow: modules, hooks of torch, patches, and the host's and our objects that are alive."""
    gc.collect()
    network, alive = model.model, [type(thing).__name__ for thing in gc.get_objects()]
    return {
        "modules": sum(1 for _ in network.modules()),
        "hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()),
        "patches": len(model.patches) + len(model.object_patches) + len(model.backup),
        "wrappers": sum(len(many) for kinds in model.wrappers.values() for many in kinds.values()),
        "functions": sum(len(getattr(module, "weight_function", ())) for module in network.modules()),
        "objects": sum(map(alive.count, ("ModelPatcher", "LoadedModel", "HostDelta", "DecoderWeights", "Adapter"))),
    }


def test_three_runs_leave_nothing_behind(run, write, on_card, apply):
    import comfy.model_management as management

    write("a", 1)
    write("b", 2)
    model, seen = on_card(0.5), []
    for number in range(3):
        tuned = apply("b.safetensors", -0.5, apply("a.safetensors", 1.0, model))
        management.load_models_gpu([tuned], memory_required=0)
        run("InspectLoRA", "a.safetensors", -1.0)
        run("ConvertLoRA", "a.safetensors", "peft", "out", 2, -1.0)
        run("MergeLoRAs", "a.safetensors", 1.0, "b.safetensors", 1.0, "single", "sum", 0, -1.0, *ALL)
        run("ExtractLoRA", tuned, model, 6, "single", "found")
        del tuned
        management.load_models_gpu([model], memory_required=0)
        seen.append(counts(model))
        assert number == 0 or seen[number] == seen[0]
    assert seen[0]["patches"] == seen[0]["hooks"] == seen[0]["functions"] == 0
