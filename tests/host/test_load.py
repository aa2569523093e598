"""The pack in a real host: every node is there, and looks as recorded."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
from hostlib import PLANNER, ROOT

SCHEMAS = Path(__file__).parent / "schemas"
MODELS = ("model", "conditioner", "text_encoder", "vae")
LORAS = ("lora", "lora_1", "lora_2", "lora_3", "lora_4")
LISTED = (*MODELS, *LORAS, "file")  # combos whose options are files


def listed_ids() -> list[str]:
    """Ids of the nodes in the explicit list of nodes/__init__.py, read without importing the host."""
    names = next(
        [element.id for element in statement.value.elts]
        for statement in ast.parse((ROOT / "nodes/__init__.py").read_text()).body
        if isinstance(statement, ast.AnnAssign) and getattr(statement.target, "id", "") == "NODES"
    )
    return [f"ACEStep{name}" for name in names]


def recorded(info: dict) -> dict:
    """The part of a node's schema that saved workflows depend on: names, types, order, defaults, bounds."""
    kept = ("default", "min", "max", "step", "options", "multiline", "control_after_generate", "forceInput")
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            options = {key: value for key, value in (rest[0] if rest else {}).items() if key in kept}
            if name in LISTED:
                options.pop("options", None)
            if "control_after_generate" in options:  # newer hosts can also say what it shall be
                options["control_after_generate"] = bool(options["control_after_generate"])
            inputs[name] = {"type": kind, "group": group, **options}
    return {"inputs": inputs, "outputs": list(zip(info["output_name"], info["output"], strict=True))}


def test_no_import_error(host):
    assert "IMPORT FAILED" not in host.log
    assert "Error while calling comfy_entrypoint" not in host.log
    assert "Traceback" not in host.log.split("To see the GUI")[0]


def test_every_node_is_registered(host):
    registered = {name for name in host.get("/object_info") if name.startswith("ACEStep")}
    assert registered == set(listed_ids())


@pytest.mark.parametrize("node", listed_ids())
def test_schema_is_the_recorded_one(host, node):
    """ACESTEP_RECORD_SCHEMAS=1 writes the files anew."""
    now = json.loads(json.dumps(recorded(host.get(f"/object_info/{node}")[node])))
    file = SCHEMAS / f"{node}.json"
    if os.environ.get("ACESTEP_RECORD_SCHEMAS"):
        file.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n")
    before = json.loads(file.read_text())
    assert list(now["inputs"]) == list(before["inputs"])  # widget values are saved by position
    assert now == before


def test_no_snapshot_without_a_node():
    assert {file.stem for file in SCHEMAS.glob("*.json")} == set(listed_ids())


@pytest.mark.parametrize("node", listed_ids())
def test_help_page_is_served(host, node):
    page = host.fetch(f"/extensions/ComfyUI-ACEStep/docs/{node}.md").decode()
    info = host.get(f"/object_info/{node}")[node]
    assert page.startswith(f"# {info['display_name']}\n")


def test_script_is_served(host):
    assert any(path.endswith("/ComfyUI-ACEStep/acestep.js") for path in host.get("/extensions"))


def test_workflows_are_offered_as_templates(host):
    offered = host.get("/api/workflow_templates")["ComfyUI-ACEStep"]
    assert sorted(offered) == sorted(file.stem for file in (ROOT / "workflows").glob("*.json"))
    assert {"text_to_song", "simple_mode", "cover", "stems"} <= set(offered)


def test_models_are_listed_from_all_places(host):
    spec = host.get("/object_info/ACEStepLoadDiT")["ACEStepLoadDiT"]["input"]["required"]
    options = {name: spec[name][1]["options"] for name in MODELS}
    assert "acestep_v1.5_turbo.safetensors" in options["model"]  # through extra_model_paths.yaml
    assert "acestep_tiny_diffusers" in options["model"]  # a folder in diffusers layout
    assert "acestep-v15-base (download)" in options["model"]  # a released model that is not there
    assert not any("diffusion_pytorch_model" in name for name in options["model"])
    assert options["text_encoder"][0] == options["vae"][0] == options["conditioner"][0] == "auto"
    assert "acestep_v1.5_turbo.safetensors" in options["conditioner"]
    planners = host.get("/object_info/ACEStepLoadLM")["ACEStepLoadLM"]["input"]["required"]["model"][1]["options"]
    assert planners[0] == PLANNER and planners[-1] == "acestep-5Hz-lm-4B (download)"
    assert "qwen_0.6b_ace15.safetensors" in options["text_encoder"] and "ace_1.5_vae.safetensors" in options["vae"]
