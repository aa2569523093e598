"""The kit of these tests, loaded from its file: it is a program of its own too."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

KIT = Path(__file__).with_name("kit.py")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Here nobody pulls the plug; processes of their own (killed ones too) do sync."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def kit():
    spec = importlib.util.spec_from_file_location("training_kit", KIT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def last_state():
    """last_state(run) -> (adapter tensors, state.pt) of the newest checkpoint."""

    def read(run):
        folder = run / "checkpoints" / (run / "checkpoints" / "latest").read_text()
        return load_file(folder / "adapter_model.safetensors"), torch.load(folder / "state.pt", weights_only=True)

    return read


@pytest.fixture(scope="session")
def metrics():
    """metrics(run) -> the lines of metrics.jsonl without what a clock says."""

    def read(run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    return read


@pytest.fixture(scope="session")
def same():
    """same(a, b): dicts and lists with bit-equal tensors."""

    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    return equal


@pytest.fixture(scope="session")
def two_processes():
    """The words after `python` that start two CPU processes; accelerate's --cpu would start one without MPI."""
    flags = {"num_processes": "2", "num_machines": "1", "mixed_precision": "no", "dynamo_backend": "no"}
    flags["main_process_port"] = "0"
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return ["-m", "accelerate.commands.launch", "--multi_gpu", *words]
