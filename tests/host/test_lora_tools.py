"""LoRA files made in a real ComfyUI: listed, wired on, and as strong as what they were made from."""

from __future__ import annotations

import prompts as p
import pytest
from hostlib import LORA
from safetensors.torch import load_file

INSPECT, CONVERT, MERGE, EXTRACT, AGAIN = "60", "61", "62", "63", "64"
ON = {"self_attention": 1.0, "cross_attention": 1.0, "mlp": 1.0, "other": 1.0, "layers": "", "alpha": -1.0}


def apply(lora=LORA, strength=1.0, model=p.LOAD):
    return p.node("ACEStepApplyLoRA", model=[model, 0], lora=lora, strength=strength, **ON)


def convert(name, lora=LORA, family="peft", rank=0):
    return p.node("ACEStepConvertLoRA", lora=lora, family=family, name=name, rank=rank, alpha=-1.0)


def merge(name, **changes):
    values = {
        "lora_1": LORA,
        "strength_1": 1.5,
        "lora_2": LORA,
        "strength_2": -0.5,
        "rank": 0,
        "alpha": -1.0,
        "family": "single",
    }
    return p.node("ACEStepMergeLoRAs", **{**values, "name": name, **changes})


def extract(name, tuned=p.PATCH, rank=8, family="single"):
    wires = {"model_tuned": [tuned, 0], "model_base": [p.LOAD, 0]}
    return p.node("ACEStepExtractLoRA", **wires, rank=rank, family=family, name=name)


def song_on(wire, **nodes):
    """A song of the decoder that a wire brings, and the nodes before it."""
    prompt = {**p.song(seed=31, loader={"precision": "fp32"}), **nodes}
    prompt[p.SAMPLE]["inputs"]["model"] = [wire, 0]
    return p.latent_only(prompt, "lora_tools")


@pytest.fixture(scope="module")
def made(host):
    """made(prompt) -> (latents, run)."""

    def go(prompt):
        run = host.run(prompt)
        assert run.ok, run.message
        file = run.outputs[p.SAVE]["latents"][0]
        return load_file(host.base / file["type"] / file["subfolder"] / file["filename"])["latent_tensor"], run

    return go


def saved_line(run, node):
    """The entry of a new file, as the node says it."""
    (line,) = [line for line in run.text(node).splitlines() if line.startswith("saved: ")]
    return line.removeprefix("saved: loras/")


def listed(host):
    return host.get("/object_info/ACEStepApplyLoRA")["ACEStepApplyLoRA"]["input"]["required"]["lora"][1]["options"]


def test_made_files_play_as_what_they_were_made_of(host, made, relative_error):
    plain, _ = made(song_on(p.LOAD))
    expected, _ = made(song_on(p.PATCH, **{p.PATCH: apply()}))
    assert relative_error(plain, expected) > 1e-3
    makers = {
        CONVERT: {CONVERT: convert("voice")},
        MERGE: {MERGE: merge("voice")},
        EXTRACT: {p.PATCH: apply(), EXTRACT: extract("voice")},
    }
    for maker, nodes in makers.items():  # the new file goes over a wire, before any list knows of it
        found, run = made(song_on(AGAIN, **nodes, **{AGAIN: apply([maker, 0])}))
        assert relative_error(found, expected) < 1e-4, maker
        entry = saved_line(run, maker)
        assert entry.startswith("voice_0000") and entry in listed(host)
        assert (host.base / "models" / "loras" / entry).exists()
    names = sorted(entry.name for entry in (host.base / "models" / "loras").iterdir())
    assert [name for name in names if "voice" in name or "tmp" in name] == [
        "voice_00001_",
        "voice_00002_.safetensors",
        "voice_00003_.safetensors",
    ]


def test_a_deleted_file_is_made_again_once(host):
    nodes = {CONVERT: convert("again", family="single", rank=3)}
    prompt = {**nodes, INSPECT: p.node("ACEStepInspectLoRA", lora=[CONVERT, 0], alpha=-1.0)}

    def there():
        return sorted((host.base / "models" / "loras").glob("again_*"))

    assert host.run(prompt).ok and host.run(prompt).ok
    (file,) = there()
    file.unlink()
    for _ in range(3):
        run = host.run(prompt)
        assert run.ok, run.message
        assert there() == [file]


def test_inspect_reads_a_made_file(host):
    nodes = {CONVERT: convert("told", family="kohya", rank=2)}
    run = host.run({**nodes, INSPECT: p.node("ACEStepInspectLoRA", lora=[CONVERT, 0], alpha=-1.0)})
    assert run.ok, run.message
    said = run.text(INSPECT).splitlines()
    assert "kohya" in said[0] and any(line.startswith("rank: 2,") for line in said)
    assert any(line.startswith("modules: ") for line in said)


def test_what_cannot_be_is_refused_before_anything_runs(host):
    for node, message in (
        (convert("../out"), "name: expected a plain name"),
        (convert("out", lora="gone.safetensors"), "lora: 'gone.safetensors' is not in"),
        (merge("out", lora_3="gone.safetensors"), "lora_3: 'gone.safetensors' is not in"),
        (convert("out", family="onnx"), "family: expected one of"),
    ):
        run = host.run({CONVERT: node})
        assert run.status == 400 and message in run.message, run.message


def test_a_merge_of_two_takes_no_others(host):
    run = host.run({MERGE: merge("two")})
    assert run.ok, run.message
    assert run.text(MERGE).count("from: ") == 2


def test_extract_of_equal_models_is_said(host, good_song):
    run = host.run({p.LOAD: p.load(precision="fp32"), EXTRACT: extract("none", tuned=p.LOAD)})
    assert not run.ok and "the two models have the same matrices" in run.message
    good_song()
