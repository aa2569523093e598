"""What the README shows in Python runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_example_makes_a_song(tiny_2b_diffusers):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("a diffusers pipeline folder", str(tiny_2b_diffusers.model)).replace('"cuda"', '"cpu"')
    names = {}
    exec(code, names)
    assert names["wave"].shape == (1, 2, 480_000)
    assert 1e-3 < float(names["wave"].std()) < 1.0
