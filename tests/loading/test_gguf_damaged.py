"""GGUF files that are damaged, or made to hurt: told in words, at once, and in a few words.

They are written by hand here: no writer makes such files.
"""

from __future__ import annotations

import json
import re
import struct
import tracemalloc

import pytest
import torch

from acestep_models.loading import build, build_part, probe
from acestep_models.loading.checkpoint import Checkpoint, Part
from acestep_models.loading.files import read_files, read_json
from acestep_models.loading.gguf_header import read_gguf, read_strings
from acestep_models.loading.gguf_tokenizer import MERGES, TOKENS, tokenizer_json
from acestep_models.loading.tensors import read_tensor
from acestep_models.qwen3.model import Qwen3, Qwen3Config
from acestep_models.qwen3.tokenizer import Tokenizer

U8, U32, STRING, ARRAY = 0, 4, 8, 9
NORM = "model.layers.0.self_attn.q_norm.weight"
SIZES = Qwen3Config(100, 64, 96, 2, 2, 1, 32)


def text(content):
    raw = content.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(name, kind, raw):
    return text(name) + struct.pack("<I", kind) + raw


def strings(name, *content):
    return value(name, ARRAY, struct.pack("<IQ", STRING, len(content)) + b"".join(map(text, content)))


def tensor(name, sides, place=0, kind=0):
    """What the header says of a tensor; `sides` in ggml's order."""
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, place)


def start(tensors, values):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values)


@pytest.fixture
def write(tmp_path):
    """write(values, tensors, data) -> the path; `data` are bytes, or how many zeros follow."""

    def run(values=(), tensors=(), data=640, architecture="acestep-lm"):
        path = tmp_path / "bad.gguf"
        head = start(len(tensors), 1 + len(values)) + value("general.architecture", STRING, text(architecture))
        raw = head + b"".join((*values, *tensors))
        raw += bytes(-len(raw) % 32)
        path.write_bytes(raw + data if isinstance(data, bytes) else raw)
        with path.open("r+b") as file:
            file.truncate(len(raw) + (len(data) if isinstance(data, bytes) else data))  # zeros that take no disk
        return path

    return run


@pytest.fixture
def planner(write):
    """planner(config, extra) -> the file of a small planner of zeros; `extra` are other tensors, with their sides."""

    def run(config=None, extra=None):
        with torch.device("meta"):
            state = Qwen3(SIZES).state_dict()
        sides = {f"model.{name}": tuple(reversed(one.shape)) for name, one in state.items()} | (extra or {})
        tensors, place = [], 0
        for name, lengths in sides.items():
            tensors.append(tensor(name, lengths, place))
            place += -(-4 * torch.Size(lengths).numel() // 32) * 32
        given = config if isinstance(config, str) else json.dumps({"acestep_role": "lm", **(config or {})})
        return write([value("acestep.config_json", STRING, text(given))], tensors, place)

    return run


def check_told(path, call, words):
    """What is told must name the file and be short, and telling it must take no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value) and len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("values", "tensors"),
    [
        ([struct.pack("<Q", 300 << 20)], 0),
        ([struct.pack("<Q", 300 << 20)], 1),
        ([value("acestep.config_json", STRING, struct.pack("<Q", 300 << 20))], 0),
        ([value("general.name", STRING, struct.pack("<Q", 300 << 20))], 0),
        ([value("numbers", ARRAY, struct.pack("<IQ", U8, 300 << 20))], 0),
        ([value("words", ARRAY, struct.pack("<IQ", STRING, 30 << 20))], 0),
    ],
    ids=["name of a value", "name of a tensor", "config", "text", "numbers", "empty strings"],
)
def test_a_damaged_length_takes_no_memory(write, values, tensors):
    """The file has as many bytes as it promises, all of them zeros."""
    path = write(values, data=301 << 20)
    raw = struct.pack("<IQQ", 3, tensors, 1 if tensors else 1 + len(values))
    with path.open("r+b") as file:
        file.seek(4)
        file.write(raw)
    check_told(path, lambda: probe(path), "damaged: (a text of|its header goes on|it promises lists of)")


@pytest.mark.parametrize("counts", [(1 << 40, 1), (0, 1 << 40)], ids=["tensors", "values"])
def test_a_damaged_count_takes_no_memory(write, counts):
    """Zeros would pass for tensors without names, 24 bytes each."""
    path = write(data=301 << 20)
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<QQ", *counts))
    check_told(path, lambda: probe(path), "damaged: it promises [0-9,]+ tensors and")


def test_long_names_are_not_repeated(write):
    path = write(architecture="x" * 900_000)
    check_told(path, lambda: probe(path), "architecture 'x{80}',")
    path = write([value("general.alignment", STRING, text("x" * 900_000))])
    check_told(path, lambda: probe(path), "its alignment is 'xxx")
    path = write(tensors=[tensor("x" * 200, [1] * 9)])
    check_told(path, lambda: probe(path), "'x{80}' has 9 sides")


@pytest.mark.parametrize("alignment", [0, 1, 12, 1 << 21])
def test_alignments_that_no_file_has(write, alignment):
    path = write([value("general.alignment", U32, struct.pack("<I", alignment))])
    check_told(path, lambda: probe(path), f"its alignment is {alignment}")


@pytest.mark.parametrize(
    "tensors",
    [
        [tensor("silence_latent", (0, 1 << 63))],
        [tensor("silence_latent", (64, 0))],
        [tensor("silence_latent", (1 << 62, 0, 4))],
        [tensor("silence_latent", (1 << 40,))],
        [tensor("silence_latent", (64, 2), 1)],
        [tensor("silence_latent", (64, 2), 16)],
        [tensor("silence_latent", (64, 2), 0), tensor("null_condition_emb", (8,), 32)],
    ],
    ids=["none of many", "none", "three", "too many", "odd place", "half aligned", "crossed"],
)
def test_sides_and_places_that_no_file_has(write, tensors):
    path = write(tensors=tensors, architecture="acestep-dit")
    check_told(path, lambda: read_gguf(path), "(has sides of|lies at no multiple of 32 bytes|begins inside of another)")


TWO = strings(TOKENS, "a", "b")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([value(TOKENS, ARRAY, struct.pack("<IQIII", U32, 3, 1, 2, 3)), strings(MERGES)], "values of the kind 4"),
        ([TWO, value(MERGES, ARRAY, struct.pack("<IQI", U32, 1, 1))], "values of the kind 4"),
        ([value(TOKENS, U32, struct.pack("<I", 5)), strings(MERGES)], f"{re.escape(TOKENS)} is no list of strings"),
        ([value(TOKENS, ARRAY, struct.pack("<IQIQ", ARRAY, 1, STRING, 0))], "values of the kind 9"),
        ([TWO, strings(MERGES, "a c")], "merges are of tokens that it does not have"),
        ([TWO, strings(MERGES, "a b")], "merges are of tokens that it does not have"),
        ([TWO, strings(MERGES, "ab")], "merges are no pairs"),
        ([strings(TOKENS, "a", "a"), strings(MERGES)], "twice"),
    ],
)
def test_tokenizers_of_other_things_than_texts(write, values, words):
    path = write(values)
    check_told(path, lambda: tokenizer_json(path), words)


def test_a_list_of_numbers_for_tokens_is_not_read(write):
    path = write([value(TOKENS, ARRAY, struct.pack("<IQ", U8, 60 << 20))], data=61 << 20)
    check_told(path, lambda: read_strings(path, (TOKENS,)), "a list of strings has values of the kind 0")


def test_the_planner_of_these_tests_is_a_whole_one(planner, write):
    network = build_part(probe(planner()), "lm", dtype=torch.float32)
    assert network.config == SIZES
    path = write([strings(TOKENS, "a", "b", "ab"), strings(MERGES, "a b")])
    assert Tokenizer.from_source(tokenizer_json(path)).encode("abb") == [2, 1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[" * 100_000, "the config is not JSON"),
        ('{"a": %s}' % ("1" * 5000), "the config is not JSON"),
        ({"rope_parameters": [1]}, "rotary positions"),
        ({"rope_theta": [1]}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"hidden_size": ["x" * 900_000]}, "hidden_size"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_configs_that_say_anything(planner, config, words):
    path = planner(config)
    with pytest.raises(ValueError, match=words) as caught:
        probe(path)
    assert path.name in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "given",
    [
        {"num_hidden_layers": 10**9},
        {"fsq_input_levels": 5},
        {"fsq_input_levels": ["a"] * 6},
        {"fsq_input_levels": [10**9] * 6},
        {"layer_types": 5},
        {"model_version": 5},
        {"sliding_window": None, "patch_size": "x"},
    ],
    ids=str,
)
def test_configs_of_a_decoder_that_say_anything(write, given):
    """No tensor says how many layers there are; so many must not be built."""
    config = value("acestep.config_json", STRING, text(json.dumps(given)))
    path = write([config], [tensor("decoder.proj_in.1.weight", (2, 192, 64))], 1 << 20, "acestep-dit")
    check_told(path, lambda: probe(path), "layers that are not sliding|" + "|".join(given))


def test_a_layer_of_a_large_number_is_not_built(planner):
    path = planner(extra={NORM.replace(".0.", ".999999999."): (32,)})
    check_told(path, lambda: probe(path), r"layers\.999999999 is no layer")


def test_an_index_that_is_no_text(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(b"GGUF\xff\xfe")
    check_told(path, lambda: read_json(path), "the config is no text")


@pytest.mark.parametrize("sides", [(), (5,), (3, 4), (2, 2, 2)], ids=len)
@pytest.mark.parametrize("layout", ["upstream", "diffusers"])
def test_silence_of_other_sides(write, sides, layout):
    path = write(tensors=[tensor("silence_latent", sides)], architecture="acestep-dit")
    files = read_files(path)
    checkpoint = Checkpoint(path, layout, {"decoder": Part({}, files)}, {})
    check_told(path, checkpoint.silence_tensor, "the latents of silence have the shape")


def test_a_head_of_other_sides(planner):
    for sides in ((), (64,), (64, 99)):
        path = planner(extra={"model.lm_head.weight": sides})
        check_told(path, lambda path=path: build._check_head(read_files(path).entries), r"lm_head\.weight differs")


def test_a_file_that_became_shorter_is_told(write):
    """As one that is fetched anew between its listing and its loading; a map beyond the end would kill the process."""
    path = write(tensors=[tensor("silence_latent", (64, 200))], data=64 * 200 * 4, architecture="acestep-dit")
    entry = read_files(path).entries["silence_latent"]
    assert read_tensor(entry).shape == (200, 64)
    path.write_bytes(path.read_bytes()[:-64])
    check_told(path, lambda: read_tensor(entry), "became shorter")
