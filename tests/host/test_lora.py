"""Adapters in a real ComfyUI: as strong as trained, off at 0, in every sampler, and as the host loads them."""

from __future__ import annotations

import json

import prompts as p
import pytest
import torch
from hostlib import LORA, ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

MERGED, PEFT, XL = "acestep_tiny_lora_merged_turbo.safetensors", "my_voice", "for_xl.safetensors"
WIDGETS = {
    "lora": LORA,
    "strength": 1.0,
    "self_attention": 1.0,
    "cross_attention": 1.0,
    "mlp": 1.0,
    "other": 1.0,
    "layers": "",
    "alpha": -1.0,
}
STEM = "diffusion_model.decoder."
TWIN = ROOT / "workflows" / "api" / "use_lora.json"


@pytest.fixture
def latents(run_latents):
    """latents(prompt, name) -> what the sampler of a prompt made."""
    return lambda prompt, name: run_latents(p.latent_only(prompt, name))


@pytest.fixture
def run_latents(host):
    """run_latents(prompt) -> what a prompt with SaveLatent saved."""

    def run(prompt):
        done = host.run(prompt)
        assert done.ok, done.message
        saved = done.outputs[p.SAVE]["latents"][0]
        return load_file(host.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"]

    return run


@pytest.fixture(scope="module")
def lora(models):
    """The tensors of the LoRA that the tests' host has."""
    return load_file(models / "loras" / LORA)


@pytest.fixture(scope="module")
def folder(models, lora):
    """The same as a PEFT folder whose config alone says that alpha is twice the rank; and one for another decoder."""
    names = {"lora_down": "lora_A", "lora_up": "lora_B"}
    renamed = {}
    for key, value in lora.items():
        module, part = key.removeprefix(STEM).removesuffix(".weight").rsplit(".", 1)
        if part in names:
            renamed[f"base_model.model.{module}.{names[part]}.weight"] = value
    (models / "loras" / PEFT).mkdir()
    save_file(renamed, models / "loras" / PEFT / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    (models / "loras" / PEFT / "adapter_config.json").write_text(json.dumps(config))
    key = f"{STEM}layers.0.self_attn.q_proj"
    wide = {f"{key}.lora_down.weight": torch.ones(4, 2560), f"{key}.lora_up.weight": torch.ones(4096, 4)}
    save_file(wide, models / "loras" / XL)
    return PEFT


@pytest.fixture(scope="module")
def merged(models, lora, tiny_2b_split):
    """A model whose decoder has the LoRA in its weights: W + alpha / rank * up @ down."""
    weights = load_file(tiny_2b_split.model)
    for key in list(weights):
        stem = f"{STEM}{key.rpartition('decoder.')[2].removesuffix('.weight')}"
        if f"{stem}.alpha" in lora and "decoder.layers." in key:
            down, up = lora[f"{stem}.lora_down.weight"], lora[f"{stem}.lora_up.weight"]
            weights[key] = weights[key].float() + float(lora[f"{stem}.alpha"]) / len(down) * (up @ down)
    with safe_open(tiny_2b_split.model, framework="pt") as file:
        save_file(weights, models / "diffusion_models" / MERGED, dict(file.metadata()))
    return MERGED


def applied(prompt, **changes):
    return p.patched(prompt, "ACEStepApplyLoRA", **{**WIDGETS, **changes})


def test_strength_1_is_the_merged_model_and_0_is_none(latents, relative_error, merged, folder):
    plain = latents(p.song(seed=3), "plain")
    expected = latents(p.song(seed=3, loader={"model": merged}), "merged")
    assert relative_error(expected, plain) > 1e-2
    assert relative_error(latents(applied(p.song(seed=3)), "lora"), expected) < 1e-5
    assert relative_error(latents(applied(p.song(seed=3), lora=folder), "peft"), expected) < 1e-5
    assert torch.equal(latents(applied(p.song(seed=3), strength=0.0), "off"), plain)
    assert torch.equal(latents(p.song(seed=3), "again"), plain)


def shipped(strength, **loader):
    """The shipped workflow up to its sampler, at another strength."""
    nodes = json.loads(TWIN.read_text())
    ids = {node["class_type"]: number for number, node in nodes.items()}
    kept = {ids[kind]: nodes[ids[kind]] for kind in ids if kind.endswith(("LoadDiT", "LoRA", "Blueprint", "Sample"))}
    kept[ids["ACEStepLoadDiT"]]["inputs"] |= loader
    kept[ids["ACEStepApplyLoRA"]]["inputs"]["strength"] = strength
    kept[p.SAVE] = p.node("SaveLatent", samples=[ids["ACEStepDiTSample"], 0], filename_prefix="latents/twin")
    return kept


def test_the_shipped_workflow_at_1_is_the_merged_model_and_at_0_is_none(run_latents, relative_error, merged):
    expected, one = run_latents(shipped(0.0, model=merged)), run_latents(shipped(1.0))
    off, bare = run_latents(shipped(0.0)), shipped(1.0)
    (patch,) = [number for number, node in bare.items() if node["class_type"] == "ACEStepApplyLoRA"]
    (load,) = [number for number, node in bare.items() if node["class_type"] == "ACEStepLoadDiT"]
    (sample,) = [number for number, node in bare.items() if node["class_type"] == "ACEStepDiTSample"]
    bare[sample]["inputs"]["model"] = [load, 0]
    del bare[patch]
    assert relative_error(one, expected) < 1e-5 and relative_error(one, off) > 1e-2
    assert torch.equal(off, run_latents(bare))


def test_every_sampler_has_it(latents, relative_error):
    ours = latents(applied(p.song(seed=3), strength=0.7), "ours")
    ksampler = latents(applied(p.ksampler(p.song(seed=3)), strength=0.7), "theirs")
    custom = latents(applied(p.guided_custom(p.song(seed=3)), strength=0.7), "custom")
    assert relative_error(ksampler, ours) < 1e-5 and relative_error(custom, ours) < 1e-5


def test_the_hosts_loader_takes_the_single_file_alike(host, latents, relative_error):
    ours = latents(applied(p.song(seed=3)), "ours")
    seen = len(host.log)
    inputs = {"lora_name": LORA, "strength_model": 1.0}
    theirs = latents(p.patched(p.song(seed=3), "LoraLoaderModelOnly", **inputs), "theirs")
    assert relative_error(theirs, ours) < 1e-5
    assert "lora key not loaded" not in host.log[seen:]


@pytest.fixture(scope="module")
def kinds(models, lora):
    """A LoRA, a LoKr and a LoHa as LyCORIS names them, by kind."""
    random = torch.Generator().manual_seed(5)
    files = {"lora": LORA, "lokr": "kr.safetensors", "loha": "ha.safetensors"}
    tensors = {kind: {} for kind in files}
    for key, up in lora.items():
        if key.endswith(".lora_up.weight"):
            name, out = key.removesuffix(".lora_up.weight"), len(up)
            flat = "lycoris_" + name.removeprefix(STEM).replace(".", "_")
            width = lora[f"{name}.lora_down.weight"].shape[1]
            for part, shape in {"w1": (4, 2), "w2_a": (out // 4, 3), "w2_b": (3, width // 2)}.items():
                tensors["lokr"][f"{flat}.lokr_{part}"] = 0.1 * torch.randn(shape, generator=random)
            for part, shape in {"w1_a": (out, 3), "w1_b": (3, width), "w2_a": (out, 3), "w2_b": (3, width)}.items():
                tensors["loha"][f"{flat}.hada_{part}"] = 0.2 * torch.randn(shape, generator=random)
            tensors["lokr"][f"{flat}.alpha"] = tensors["loha"][f"{flat}.alpha"] = torch.tensor(6.0)
    for kind in ("lokr", "loha"):
        save_file({key: value.clone() for key, value in tensors[kind].items()}, models / "loras" / files[kind])
    return files


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha"])
def test_the_hosts_loader_takes_a_converted_file_alike(host, kinds, latents, relative_error, kind):
    values = {"lora": kinds[kind], "family": "single", "name": f"for_host_{kind}", "rank": 0, "alpha": -1.0}
    run = host.run({"61": p.node("ACEStepConvertLoRA", **values)})
    assert run.ok, run.message
    entry = run.text("61").splitlines()[0].removeprefix("saved: loras/")
    ours, seen = latents(applied(p.song(seed=3), lora=kinds[kind]), "ours"), len(host.log)
    theirs = p.patched(p.song(seed=3), "LoraLoaderModelOnly", lora_name=entry, strength_model=1.0)
    assert relative_error(latents(theirs, "theirs"), ours) < 1e-5
    assert relative_error(latents(p.song(seed=3), "plain"), ours) > 1e-3
    assert not [words for words in ("lora key not loaded", "NOT LOADED", "ERROR lora") if words in host.log[seen:]]


def test_two_in_a_row_add_up(latents, relative_error):
    both = applied(p.song(seed=3), strength=0.75)
    both["31"] = p.node("ACEStepApplyLoRA", model=[p.LOAD, 0], **{**WIDGETS, "strength": 0.25})
    both[p.PATCH]["inputs"]["model"] = ["31", 0]
    assert relative_error(latents(both, "both"), latents(applied(p.song(seed=3)), "one")) < 1e-5


def test_the_node_says_what_it_did(host, folder):
    run = host.run(applied(p.song(seed=4), lora=folder, cross_attention=0.0, layers="0-1"))
    assert run.ok, run.message
    for words in (
        "my_voice: LoRA for 32 modules, PEFT",
        "rank: 4, alpha: 8, scale: 2",
        "matched: 32 of 32 modules, 8",
    ):
        assert words in run.text(p.PATCH)
    assert "trigger: paper boats (prepend)" in host.run(applied(p.song(seed=4))).text(p.PATCH)
    said = host.run(applied(p.song(seed=4), strength=0.0)).text(p.PATCH)
    assert "strength: 0 (off: the model is passed on" in said and "rank" not in said  # the file was not read


def test_the_node_says_what_does_not_act_and_why(host, models, lora):
    beyond, other = f"{STEM}layers.9.mlp.up_proj", "text_encoders.qwen.layers.0.mlp.up_proj"
    extra = {f"{name}.lora_{part}.weight": torch.ones(2, 2) for name in (beyond, other) for part in ("down", "up")}
    save_file({**lora, **extra}, models / "loras" / "odd.safetensors", {"base_variant": "acestep-v15-base"})
    said = host.run(applied(p.song(seed=4), lora="odd.safetensors")).text(p.PATCH).splitlines()
    assert "matched: 32 of 33 modules" in said
    assert "not matched: layers.9.mlp.up_proj: this decoder has no such module" in said
    (skipped,) = [line for line in said if line.startswith("of the file not used: ")]
    assert all(f"{other}.lora_{part}.weight" in skipped for part in ("down", "up"))
    assert "trained on acestep-v15-base, this is turbo: it may act weaker" in said
    fitting = host.run(applied(p.song(seed=4))).text(p.PATCH)
    assert "trained on: turbo" in fitting
    assert not any(words in fitting for words in ("weaker", "not matched", "not used"))


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        ({"lora": "gone.safetensors"}, ("lora: 'gone.safetensors' is not in", "put a .safetensors file")),
        ({"layers": "3-1"}, ("layers: '3-1'",)),
        ({"alpha": 0.0}, ("alpha: expected -1 (as in the file) or a number above 0", "got 0")),
        ({"alpha": -0.5}, ("alpha: expected -1 (as in the file) or a number above 0", "got -0.5")),
    ],
)
def test_slips_are_named_before_anything_runs(host, widgets, words):
    run = host.run(applied(p.song(), **widgets))
    assert run.status == 400
    assert all(word in run.message for word in words), run.message


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        ({"lora": XL}, ("lora: for_xl.safetensors", "trained for XL (2560)")),
        ({"layers": "2-9"}, ("layers: '2-9' names layer 9, but this decoder has 4",)),
    ],
)
def test_what_cannot_act_is_an_error_of_the_node(host, folder, good_song, widgets, words):
    run = host.run(applied(p.song(), **widgets))
    assert run.status == 200 and not run.ok
    assert all(word in run.message for word in words), run.message
    good_song()


def test_a_replaced_file_is_read_again(host, models, lora, latents, relative_error):
    name = "changing.safetensors"
    file, prompt = models / "loras" / name, applied(p.song(seed=3), lora=name)
    save_file(lora, file)
    first = latents(prompt, "first")
    assert p.PATCH in host.run(p.latent_only(prompt, "first")).cached
    save_file({key: value if key.endswith("alpha") else -value for key, value in lora.items()}, file)
    assert p.PATCH not in host.run(p.latent_only(prompt, "same")).cached  # (-up) @ (-down): the same song
    assert relative_error(latents(prompt, "second"), first) < 1e-6
    save_file({key: value / 2 if key.endswith("alpha") else value for key, value in lora.items()}, file)
    assert relative_error(latents(prompt, "third"), first) > 1e-3


def hooked(prompt, strength, *keyframes, **changes):
    """The song through KSampler, with HookLoRA and the host's own nodes for keyframes and conditionings."""
    nodes = {"40": p.node("ACEStepHookLoRA", **{**WIDGETS, "strength": strength, **changes})}
    for number, (start, factor) in enumerate(keyframes):
        before = {"prev_hook_kf": [str(50 + number - 1), 0]} if number else {}
        nodes[str(50 + number)] = p.node("CreateHookKeyframe", strength_mult=factor, start_percent=start, **before)
    if keyframes:
        last = [str(50 + len(keyframes) - 1), 0]
        nodes["41"] = p.node("SetHookKeyframes", hooks=["40", 0], hook_kf=last)
    pair = {"positive_NEW": [p.ENCODE, 0], "negative_NEW": [p.ENCODE, 1], "strength": 1.0, "set_cond_area": "default"}
    nodes["42"] = p.node("PairConditioningSetProperties", **pair, hooks=["41" if keyframes else "40", 0])
    song = p.ksampler(prompt)
    song[p.SAMPLE]["inputs"] |= {"positive": ["42", 0], "negative": ["42", 1]}
    return {**song, **nodes}


def test_hooks_act_as_scheduled(latents, relative_error):
    plain = latents(p.song(seed=3), "plain")
    expected = latents(applied(p.song(seed=3), strength=0.5), "applied")
    assert relative_error(latents(hooked(p.song(seed=3), 0.5), "hooked"), expected) < 1e-5
    assert relative_error(latents(hooked(p.song(seed=3), 1.0, (0.0, 0.5)), "keyframe"), expected) < 1e-5
    assert torch.equal(latents(hooked(p.song(seed=3), 0.0), "off"), latents(p.ksampler(p.song(seed=3)), "bare"))
    part = latents(hooked(p.song(seed=3), 0.5, (0.0, 1.0), (0.5, 0.0)), "half")
    assert relative_error(part, expected) > 1e-3 and relative_error(part, plain) > 1e-3
    assert torch.equal(latents(p.song(seed=3), "after"), plain)


def test_a_hook_of_which_nothing_fits_is_an_error_of_the_sampler(host, folder, good_song):
    run = host.run(hooked(p.song(seed=3), 1.0, lora=XL))
    assert not run.ok and "for_xl.safetensors" in run.message and "trained for XL (2560)" in run.message
    good_song()


def test_after_patches_and_hooks_the_model_is_the_one_it_was(host, run_latents):
    """One loaded model throughout: plain, applied, hooked, plain."""
    plain = p.latent_only(p.ksampler(p.song(seed=9)), "plain")
    first = run_latents(plain)
    changed = [applied(p.ksampler(p.song(seed=9))), hooked(p.song(seed=9), 1.0)]
    others = [run_latents(p.latent_only(prompt, "changed")) for prompt in changed]
    again = host.run(plain)
    assert again.ok and p.LOAD in again.cached and p.SAMPLE not in again.cached
    saved = again.outputs[p.SAVE]["latents"][0]
    assert torch.equal(
        load_file(host.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"], first
    )
    assert not any(torch.equal(other, first) for other in others)
