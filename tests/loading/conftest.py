"""Fakes of real checkpoints: their names and shapes (tests/oracles/keys), without a byte of weights."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from acestep_models.loading.files import Files
from acestep_models.loading.header import Header

KEYS = Path(__file__).resolve().parents[1] / "oracles" / "keys"


@pytest.fixture(scope="session")
def make_keys():
    """The script that writes the tables, as a module."""
    spec = importlib.util.spec_from_file_location("make_keys", KEYS / "make_keys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def committed(make_keys):
    """committed(name) -> the table of keys and shapes as it lies in the repository."""
    return lambda name: make_keys.from_text((KEYS / f"{name}.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def fake_files():
    """fake_files(table, ...) -> what `read_files` would give for a file with these keys."""

    def make(table, path="fake.safetensors", dtype="BF16", given=None, metadata=None):
        header = Header(Path(path), dict(table), dict.fromkeys(table, dtype), metadata or {})
        return Files(Path(path), (header,), given or {})

    return make


@pytest.fixture
def write_file(tmp_path):
    """write_file(table, ...) -> a path to a real safetensors file of zeros (its size is real, its content a hole)."""

    def write(table, name="file.safetensors", dtype="BF16", metadata=None):
        header, end = {"__metadata__": metadata} if metadata else {}, 0
        for key, shape in table.items():
            start, numbers = end, 1
            for size in shape:
                numbers *= size
            end += numbers * {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1}[dtype]
            header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(8 + len(raw) + end)
        return path

    return write


@pytest.fixture(scope="session")
def ggufs():
    """The writer of GGUF files (tests/oracles/ggufs.py)."""
    pytest.importorskip("gguf")
    path = KEYS.parent / "ggufs.py"
    spec = importlib.util.spec_from_file_location("ggufs", path)
    module = sys.modules["ggufs"] = importlib.util.module_from_spec(spec)  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module
