"""Who may import whom, read off the syntax trees (CONTRIBUTING.md, "Layers")."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE, FACE = "acestep_models", "nodes"

# The first row: each may import those before it.
BASE = (
    "errors",
    "units",
    "spans",
    "blueprint_fields",
    "code_text",
    "blueprint",
    "blueprint_json",
    "tasks",
    "prompts",
    "lm_prompts",
    "runtime",
    "ops",
    "compiled",
    "graphs",
)
SHARED = {*BASE, "layers", "qwen3"}
PARTS = {"planner", "text", "vae", "dit", "sampling", "audio"}
BELOW_PIPELINES = SHARED | PARTS | {"loading", "adapters", "scoring"}
LAYERS: dict[str, set[str]] = {
    **{unit: set(BASE[:index]) for index, unit in enumerate(BASE)},
    "layers": set(BASE),
    "qwen3": {*BASE, "layers"},
    **{part: SHARED for part in PARTS},
    "loading": SHARED | {"text", "vae", "dit"},
    "adapters": {*BASE, "loading.keymaps", "loading.header", "loading.foreign"},
    "scoring": SHARED | {"dit", "planner"},
    "pipelines": BELOW_PIPELINES,
    "training": BELOW_PIPELINES | {"pipelines"},
    "tiny": BELOW_PIPELINES | {"pipelines", "training"},
}

HOST = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "server",
}
# What ComfyUI always brings and what stays importable when torch changes.
ALWAYS = {"torch", "numpy", "safetensors", "tokenizers", "einops"}
# What a feature may import when it is used; missing or broken, it must not stop the pack from loading.
LATE = {
    "torchaudio",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "prodigyopt",
    "gguf",
    "huggingface_hub",
    "av",
    "PIL",
    "yaml",
    "scipy",
}
# Layers with weights come from `Ops`, or the host cannot stream, quantise or patch them.
WEIGHTED = {"Linear", "Conv1d", "ConvTranspose1d", "RMSNorm", "LayerNorm", "Embedding"}
NETWORKS = {"layers", "qwen3", "text", "vae", "dit"}
MUTABLE = {"list", "dict", "set", "defaultdict", "OrderedDict", "deque", "Counter"}
CHANGES = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "clear", "remove"}


@dataclass(frozen=True)
class Import:
    """One imported module with its full name; `late` when it happens inside a function."""

    line: int
    module: tuple[str, ...]
    names: tuple[str, ...]
    relative: bool
    late: bool


def read_imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[Import]:
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, tuple(alias.name.split(".")), (), False, id(node) in late)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = (*start, *(node.module.split(".") if node.module else ()))
            names = tuple(alias.name for alias in node.names)
            relative, inside = node.level > 0, id(node) in late
            if relative and not node.module:  # `from . import a, b` names modules
                for name in names:
                    yield Import(node.lineno, (*module, name), (), True, inside)
            else:
                yield Import(node.lineno, module, names, relative, inside)


def is_allowed_in_core(unit: str, target: tuple[str, ...]) -> bool:
    if target[0] != CORE:
        return False
    inner = target[1:]
    return not inner or inner[0] == unit or inner[0] in LAYERS[unit] or ".".join(inner[:2]) in LAYERS[unit]


def check_own(rel: Path, found: Import) -> str | None:
    """A relative import: the layering rules."""
    target, where = ".".join(found.module), rel.parts[0]
    if private := [name for name in found.names if name.startswith("_") and found.module[:-1] != rel.parts[:-1]]:
        return f"imports the private name {private[0]} of {target}"
    if where == CORE:
        unit = rel.parts[1].removesuffix(".py")
        if unit not in LAYERS and unit != "__init__":
            return f"is no known part of {CORE}: add a row to LAYERS"
        if unit == "__init__" or not is_allowed_in_core(unit, found.module):
            return f"imports {target}, which stands above {unit} or beside it"
    elif where == FACE:
        if found.module[0] not in {CORE, FACE}:
            return f"imports {target}"
        if rel.parts[1] == "host" and found.module[0] == FACE and found.module[1:2] != ("host",):
            return f"imports {target}: the host adapter knows no node"
    elif not found.late:
        return f"imports {target} at module level: ComfyUI loads __init__.py before it knows whether the host fits"
    return None


def check_foreign(rel: Path, found: Import) -> str | None:
    """An absolute import: standard library, host, or a known package."""
    name = found.module[0]
    if name in sys.stdlib_module_names or name == "__future__":
        return None
    if name in {CORE, FACE}:
        return f"imports {name} absolutely: one class would get two identities"
    if name in HOST:
        return None if rel.parts[:2] == (FACE, "host") else f"imports {name}: only nodes/host/ touches ComfyUI"
    if name in LATE:
        return None if found.late else f"imports {name} at module level: import it where it is used"
    if name not in ALWAYS:
        return f"imports {name}, which ComfyUI does not always bring"
    return None


def is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)):
        return True
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in MUTABLE


def check_state(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Module-level names may be constant tables (UPPER_CASE), which nothing changes."""
    tables = set()
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            name = ast.unparse(target)
            tables.add(name)
            if is_mutable(node.value) and not name.isupper() and not name.startswith("__"):
                yield node.lineno, f"{name} is module-level state; a constant table is UPPER_CASE"
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"global {', '.join(node.names)}"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            caches = [decorator for decorator in node.decorator_list if is_cache(decorator) and node.args.args]
            yield from ((decorator.lineno, "caches on module level") for decorator in caches)
            yield from check_changes(node, tables)


def is_cache(decorator: ast.expr) -> bool:
    """Without arguments a cached function is a constant table, made late."""
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(call).split(".")[-1] in {"lru_cache", "cache"}


def check_changes(function: ast.AST, tables: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
            changed = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            changed = node.func.value
        else:
            continue
        if isinstance(changed, ast.Name) and changed.id in tables:
            yield node.lineno, f"changes the module-level {changed.id}"


def check_handlers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = {"everything"} if node.type is None else {ast.unparse(part) for part in names_in(node.type)}
            if bad := caught & {"everything", "Exception", "BaseException"}:
                yield node.lineno, f"catches {bad.pop()}: it would swallow the host's cancel"


def names_in(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def check_layers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WEIGHTED:
            if ast.unparse(node.func.value) in {"nn", "torch.nn"}:
                yield node.lineno, f"builds nn.{node.func.attr}: take it from ops"


def check_source(rel: Path, source: str) -> list[str]:
    """What is wrong with one file of the pack, each as "path:line what"."""
    tree = ast.parse(source)
    found: list[tuple[int, str]] = []
    for one in read_imports(tree, rel.parts[:-1]):
        message = check_own(rel, one) if one.relative else check_foreign(rel, one)
        if message:
            found.append((one.line, message))
    found += check_state(tree)
    found += check_handlers(tree)
    if rel.parts[0] == CORE and rel.parts[1] in NETWORKS:
        found += check_layers(tree)
    return [f"{rel.as_posix()}:{line} {message}" for line, message in sorted(found)]


def pack_files() -> list[Path]:
    folders = (path for folder in (CORE, FACE) for path in sorted((ROOT / folder).rglob("*.py")))
    return [path.relative_to(ROOT) for path in (ROOT / "__init__.py", *folders)]


@pytest.mark.parametrize("rel", pack_files(), ids=lambda rel: rel.as_posix())
def test_file_keeps_the_rules(rel: Path) -> None:
    assert check_source(rel, (ROOT / rel).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("rel", "source", "message"),
    [
        ("acestep_models/units.py", "from .ops import Ops", "stands above units"),
        ("acestep_models/dit/a.py", "from ..vae import oobleck", "stands above dit or beside it"),
        ("acestep_models/dit/a.py", "from .. import vae", "imports acestep_models.vae, which stands above"),
        ("acestep_models/dit/a.py", "def f():\n    from ..pipelines.encode import x", ":2 imports acestep_models.pipe"),
        ("acestep_models/qwen3/a.py", "from ..text.encoder import x", "stands above qwen3"),
        ("acestep_models/adapters/a.py", "from ..loading.build import x", "loading.build, which stands above"),
        ("acestep_models/dit/a.py", "from ...nodes import x", "imports nodes, which stands above"),
        ("acestep_models/news.py", "from .units import HOP", "no known part"),
        ("acestep_models/text/a.py", "from ..qwen3.model import _visible", "imports the private name _visible"),
        ("acestep_models/dit/a.py", "import acestep_models.units", "absolutely"),
        ("nodes/a.py", "from acestep_models.units import HOP", "absolutely"),
        ("acestep_models/dit/a.py", "import comfy.ops", "only nodes/host/ touches ComfyUI"),
        ("nodes/load.py", "def f():\n    import folder_paths", "only nodes/host/ touches ComfyUI"),
        ("nodes/host/a.py", "from ..load import LoadDiT", "the host adapter knows no node"),
        ("acestep_models/audio/a.py", "import torchaudio", "torchaudio at module level"),
        ("acestep_models/audio/a.py", "from peft import x", "peft at module level"),
        ("nodes/host/a.py", "import transformers", "transformers at module level"),
        ("acestep_models/audio/a.py", "import librosa", "does not always bring"),
        ("__init__.py", "from .nodes import x", "at module level"),
        ("nodes/a.py", "seen = {}", "seen is module-level state"),
        ("nodes/a.py", "seen: list[int] = []", "seen is module-level state"),
        ("nodes/a.py", "N = 0\ndef f():\n    global N", "global N"),
        ("nodes/a.py", "T = {}\ndef f():\n    T['a'] = 1", "changes the module-level T"),
        ("nodes/a.py", "T = []\ndef f():\n    T.append(1)", "changes the module-level T"),
        ("nodes/a.py", "@functools.lru_cache(1)\ndef f(x):\n    return x", "caches on module level"),
        ("nodes/a.py", "try:\n    f()\nexcept:\n    g()", "catches everything"),
        ("nodes/a.py", "try:\n    f()\nexcept (OSError, Exception):\n    g()", "catches Exception"),
        ("acestep_models/dit/a.py", "def f():\n    return nn.Linear(1, 1)", "nn.Linear: take it from ops"),
    ],
)
def test_a_broken_rule_is_found(rel: str, source: str, message: str) -> None:
    found = check_source(Path(rel), source)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("rel", "source"),
    [
        ("acestep_models/dit/a.py", "from ..layers import Attention\nfrom .config import DiTConfig\nimport torch"),
        ("acestep_models/adapters/a.py", "from ..loading.keymaps import TABLES"),
        ("acestep_models/pipelines/a.py", "from ..vae.tiling import decode_tiled\nfrom ..dit.config import XL"),
        ("acestep_models/audio/a.py", "def f():\n    import torchaudio"),
        ("acestep_models/audio/a.py", "@cache\ndef f():\n    return (1, 2)"),
        ("acestep_models/dit/a.py", "TABLE = {1: 2}\n__all__ = ['TABLE']\ndef f(t):\n    t = {}\n    t[1] = 2"),
        ("nodes/a.py", "from ..acestep_models.units import HOP\nfrom .host.models import x\nfrom .types import y"),
        ("nodes/host/a.py", "import comfy.ops\nfrom .folders import x\nfrom ...acestep_models.ops import Ops"),
        ("__init__.py", "async def comfy_entrypoint():\n    from .nodes import x\n    return x"),
        ("nodes/a.py", "try:\n    f()\nexcept (OSError, ValueError):\n    g()\nfinally:\n    h()"),
    ],
)
def test_a_kept_rule_is_not(rel: str, source: str) -> None:
    assert check_source(Path(rel), source) == []


def test_every_part_of_the_core_has_a_row() -> None:
    parts = {rel.parts[1].removesuffix(".py") for rel in pack_files() if rel.parts[0] == CORE} - {"__init__"}
    assert parts <= LAYERS.keys()
    assert {"layers", "qwen3", "dit", "vae", "text"} <= parts
