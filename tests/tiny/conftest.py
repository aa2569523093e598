"""Keys of files, compared without regard to the number of layers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

KEYS = Path(__file__).resolve().parents[1] / "oracles" / "keys"


@pytest.fixture(scope="session")
def keys_by_layer():
    """keys_by_layer(tensors or name of a table) -> its keys; numbers of repeated layers become N."""

    def general(source):
        if isinstance(source, str):
            source = [line.split()[0] for line in (KEYS / f"{source}.txt").read_text(encoding="utf-8").splitlines()]
        vae = any(".snake1." in key or key.endswith(".layers.6.alpha") for key in source)
        return sorted(source) if vae else sorted({re.sub(r"\blayers\.\d+\.", "layers.N.", key) for key in source})

    return general
