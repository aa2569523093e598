"""Headers: what is read, and what every kind of damaged or wrong file is told."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from acestep_models.loading.header import read_header


def test_header_of_a_real_file(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"x": torch.zeros(2, 3, dtype=torch.bfloat16), "y": torch.zeros(()), "z": torch.zeros(4, 0)}
    save_file(tensors, path, {"note": "hello"})
    header = read_header(path)
    assert header.shapes == {"x": (2, 3), "y": (), "z": (4, 0)}
    assert header.dtypes == {"x": "BF16", "y": "F32", "z": "F32"}
    assert header.metadata == {"note": "hello"}


def test_every_truncation_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(8)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.safetensors: .*(empty|cut off|not a safetensors file)"):
            read_header(path)
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=rf"has {len(whole) - 4} bytes, its header promises {len(whole)}"):
        read_header(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(ValueError, match="longer than it should be"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"hello, I am a text and no model", "not a safetensors file: it begins with"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Access denied</html>", "web page"),
        (b"PK\x03\x04" + bytes(60), "PyTorch pickle"),
        (b"\x80\x02}q\x00" + bytes(60), "Python pickle"),
        (b"GGUF\x03\x00\x00\x00" + bytes(60), "GGUF"),
        ((16).to_bytes(8, "little") + b'{"a": tru       ', "its header is not JSON"),
        ((16).to_bytes(8, "little") + b'{"a": [1, 2, 3]}', "JSON of another kind"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"wrong\.safetensors: .*{message}"):
        read_header(path)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.safetensors: there is no such file"):
        read_header(tmp_path / "gone.safetensors")
