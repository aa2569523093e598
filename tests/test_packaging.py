"""What the registry, pip, ComfyUI and a reader of the README rely on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW_FOLDERS = ("workflow", "workflows", "example", "examples", "example_workflows")

BREAK_OPTIONAL = """
import importlib, importlib.util, pathlib, pkgutil, sys
root = pathlib.Path(sys.argv[1])
sys.path.append(str(root))
import acestep_models
for module in pkgutil.walk_packages(acestep_models.__path__, "acestep_models."):
    importlib.import_module(module.name)
where = [str(root)]
spec = importlib.util.spec_from_file_location("a_path_x", root / "__init__.py", submodule_search_locations=where)
pack = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = pack
spec.loader.exec_module(pack)
assert callable(pack.comfy_entrypoint) and (root / pack.WEB_DIRECTORY).is_dir()
assert not hasattr(pack, "NODE_CLASS_MAPPINGS")
print(len([name for name in sys.modules if name.startswith("acestep_models")]))
"""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_knows_the_pack(project: dict) -> None:
    metadata, comfy = project["project"], project["tool"]["comfy"]
    assert metadata["name"] == "acestep-15"
    assert "comfyui" not in metadata["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert metadata["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert comfy["PublisherId"] == "acestep-15"
    assert comfy["DisplayName"] == "ACE-Step 1.5"
    assert comfy["requires-comfyui"] == ">=0.3.75"


def test_pythons_and_dependencies(project: dict) -> None:
    metadata = project["project"]
    assert metadata["requires-python"] == ">=3.10"
    for minor in (10, 11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in metadata["classifiers"]
    # ComfyUI brings everything; an upper pin here would downgrade somebody's torch.
    assert metadata["dependencies"] == []
    assert {"test", "bench"} <= metadata["optional-dependencies"].keys()
    assert not (ROOT / "requirements.txt").exists()


def test_only_the_core_is_installed(project: dict) -> None:
    from setuptools import find_packages

    found = find_packages(str(ROOT), **project["tool"]["setuptools"]["packages"]["find"])
    assert {"acestep_models", "acestep_models.qwen3", "acestep_models.dit"} <= set(found)
    assert all(name.split(".")[0] == "acestep_models" for name in found)
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "acestep_models").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == set(found)


def test_one_folder_of_workflows() -> None:
    # ComfyUI lists every one of these names, but its page fetches by template name only: two would collide.
    assert [name for name in WORKFLOW_FOLDERS if (ROOT / name).exists()] == ["workflows"]


def test_imports_survive_broken_optional_packages(tmp_path: Path) -> None:
    for name in ("torchaudio", "transformers", "peft", "accelerate", "diffusers", "bitsandbytes", "av", "scipy"):
        (tmp_path / f"{name}.py").write_text(f"raise OSError('Could not load this library: {name}')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", BREAK_OPTIONAL, str(ROOT)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 30


def test_the_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.M))
    assert {"demo", "test", "compat", "help", "clean"} <= targets
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", (ROOT / page).read_text(encoding="utf-8"), flags=re.M))
        assert named
        assert named <= targets, page


def test_links_to_files_of_the_repository_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        missing = [link for link in links if link and not (ROOT / link).exists()]
        assert missing == [], page


@pytest.mark.skipif(os.name == "nt", reason="file modes")
def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("def test_a():\n    pass", 0),
        ("@pytest.mark.skip(reason='no reason')\ndef test_a():\n    pass", 1),
        ("def test_a():\n    pytest.skip('not today')", 1),
        ("pytest.skip('all of it', allow_module_level=True)", 1),
        ("@pytest.mark.gpu\ndef test_a():\n    pytest.skip('no GPU')", 0),
        ("@pytest.mark.xfail\ndef test_a():\n    assert False", 0),
    ],
)
def test_a_skip_fails_the_run(tmp_path: Path, body: str, code: int) -> None:
    (tmp_path / "test_one.py").write_text(f"import pytest\n{body}\n\ndef test_other():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "plugins")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no_skips", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert bool(done.returncode) == bool(code), done.stdout
    assert ("counts as a failure here" in done.stdout) == bool(code)
