"""GGUF files as acestep.cpp writes them: read as the safetensors they were made of, or told what is wrong."""

from __future__ import annotations

import json
import struct

import pytest
import torch
import torch.nn.functional as F

gguf = pytest.importorskip("gguf")

from acestep_models.loading import build_part, probe  # noqa: E402
from acestep_models.loading import gguf_header as header_module  # noqa: E402
from acestep_models.loading.blocks import BLOCKS  # noqa: E402
from acestep_models.loading.gguf_header import read_gguf  # noqa: E402
from acestep_models.loading.gguf_tokenizer import ADDED, tokenizer_json  # noqa: E402
from acestep_models.loading.packed import BlockLinear, PackedLinear, Packing  # noqa: E402
from acestep_models.qwen3.model import Qwen3, Qwen3Config  # noqa: E402
from acestep_models.qwen3.tokenizer import Tokenizer  # noqa: E402

STAYING = Packing(PackedLinear, torch.float32, int8=False)
WHERE = {part: "model" for part in ("decoder", "condition", "tokenizer", "detokenizer")}
WHERE |= {"vae": "vae", "text_encoder": "text_encoder", "lm": "lm"}
INPUTS = {
    "decoder": ((1, 50, 64), (1, 50, 128), (1, 9, 64), (1,)),
    "condition": ((1, 8, 32), (1, 12, 32), (2, 750, 64)),
    "detokenizer": ((1, 10, 64),),
    "text_encoder": None,
    "lm": None,
}
# Least cosine to the full network, of tiny networks of random weights.
ALIKE = {"Q8_0": 0.9995, "Q5_1": 0.98, "Q5_0": 0.97, "Q4_1": 0.92, "Q4_0": 0.9}


def given(part, rng):
    shapes = INPUTS[part]
    return (torch.arange(40)[None] + 5,) if shapes is None else [torch.rand(s, generator=rng(9)) for s in shapes]


@pytest.fixture(scope="session")
def upstream(tmp_path_factory, write_tiny):
    return write_tiny(tmp_path_factory.mktemp("gguf_upstream"), layout="upstream", family="2b")


@pytest.fixture(scope="session")
def quantised(tmp_path_factory, upstream, ggufs):
    """quantised(kind) -> the set, written once a kind."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = ggufs.write_set(tmp_path_factory.mktemp(kind), upstream, kind)
        return made[kind]

    return get


@pytest.mark.slow
def test_the_header_is_what_the_package_reads(quantised, small):
    for path in (quantised("Q8_0").model, small("Q4_K_M")):
        header, reader = read_gguf(path), gguf.GGUFReader(path)
        assert header.starts == {tensor.name: tensor.data_offset for tensor in reader.tensors}
        assert header.dtypes == {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        for tensor in reader.tensors:
            sides = tuple(reversed(tensor.shape.tolist()))
            assert header.shapes[tensor.name][-len(sides) :] == sides
    assert read_gguf(quantised("Q8_0").model).shapes["decoder.layers.0.scale_shift_table"] == (1, 6, 64)


@pytest.mark.slow
@pytest.mark.parametrize("part", WHERE)
def test_converted_files_are_the_same_weights(part, quantised, upstream):
    converted, source = probe(getattr(quantised("BF16"), WHERE[part])), probe(getattr(upstream, WHERE[part]))
    wanted = build_part(source, part, dtype=torch.float32).state_dict()
    got = build_part(converted, part, dtype=torch.float32, packing=STAYING).state_dict()
    assert got.keys() == wanted.keys() and all(torch.equal(got[key], value) for key, value in wanted.items())
    assert converted.config(part) == source.config(part) and converted.dtypes(part) == source.dtypes(part)


@pytest.mark.slow
def test_parts_and_silence(quantised, upstream):
    files = quantised("Q8_0")
    found = {name: probe(getattr(files, name)).parts for name in ("model", "vae", "text_encoder", "lm")}
    assert found["model"] == {"decoder", "condition", "tokenizer", "detokenizer"}
    assert (found["vae"], found["text_encoder"], found["lm"]) == ({"vae"}, {"text_encoder"}, {"lm"})
    assert torch.equal(probe(files.model).silence_tensor(), probe(upstream.model).silence_tensor())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text_encoder", "lm"])
def test_the_tokenizer_inside_gives_the_same_ids(part, quantised, upstream):
    inside = Tokenizer.from_source(probe(getattr(quantised("BF16"), part)).tokenizer_source(part))
    beside = Tokenizer.from_source(probe(getattr(upstream, part)).tokenizer_source(part))
    text = "# Caption\nwarm piano, Ünïcode 12 <|im_start|>user <think>\n</think><|endoftext|>"
    assert inside.encode(text) == beside.encode(text) and inside.size == beside.size
    assert inside.decode(inside.encode(text)) == beside.decode(beside.encode(text))


def test_a_vocabulary_alone_gets_the_tokens_of_qwen3(tmp_path, ggufs):
    path = tmp_path / "words.gguf"
    ggufs.write_file(path, "acestep-lm", {"x": torch.ones(2)}, "{}", tokenizer=WORDS)
    tokenizer = Tokenizer.from_source(tokenizer_json(path))
    assert tokenizer.size == 95 + len(ADDED) and tokenizer.end_id == 95
    assert tokenizer.encode("th<think>") == [94, 95 + len(ADDED) - 2]
    # spec/planner.md §1.2: 151643 is the first and 151668 the last one.
    assert len(ADDED) == 151669 - 151643 and ADDED[0] == "<|endoftext|>" and ADDED[-1] == "</think>"


@pytest.mark.slow
@pytest.mark.parametrize("part", INPUTS)
@pytest.mark.parametrize("kind", ALIKE)
def test_networks_in_blocks(kind, part, quantised, upstream, rng):
    whole = build_part(probe(getattr(upstream, WHERE[part])), part, dtype=torch.float32)
    packed = build_part(probe(getattr(quantised(kind), WHERE[part])), part, dtype=torch.float32, packing=STAYING)
    with torch.inference_mode():
        wanted, got = (network(*given(part, rng)).flatten().double() for network in (whole, packed))
    assert ALIKE[kind] < float(F.cosine_similarity(wanted, got, dim=0)) < 1
    small = {name for name, value in packed.state_dict().items() if value.dtype == torch.uint8}
    matrices = {name for name in whole.state_dict() if ".layers." in f".{name}" and name.endswith("_proj.weight")}
    assert small == matrices, "norms, tables and embeddings are whole"
    rate, full = BLOCKS[kind].bytes / BLOCKS[kind].numbers, whole.state_dict()
    sizes = packed.state_dict()
    assert sum(sizes[name].nbytes for name in small) == rate * sum(full[name].numel() for name in small)


@pytest.mark.slow
def test_without_packing_every_number_is_decoded(quantised):
    path = quantised("Q4_0").model
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for part, prefix in (("decoder", "decoder."), ("detokenizer", "detokenizer."), ("tokenizer", "tokenizer.")):
        state = build_part(probe(path), part, dtype=torch.float32).state_dict()
        for name, value in state.items():
            tensor = tensors[prefix + name]
            wanted = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
            assert torch.equal(value.flatten(), wanted.flatten()), name


@pytest.mark.slow
def test_matrices_stay_mapped(quantised):
    network = build_part(probe(quantised("Q8_0").model), "decoder", dtype=torch.float32, packing=STAYING)
    layers = [layer for layer in network.modules() if isinstance(layer, BlockLinear)]
    storages = {layer.weight.untyped_storage().data_ptr() for layer in layers}
    assert len(storages) == len(layers) and all(
        layer.weight.untyped_storage().nbytes() == layer.weight.nbytes for layer in layers
    )


SIZES = {"vocab_size": 700, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
LETTERS = {chr(code): code - 33 for code in range(33, 127)} | {"th": 94}
WORDS = json.dumps({"model": {"vocab": LETTERS, "merges": [("t", "h")]}, "added_tokens": []})


@pytest.fixture(scope="session")
def planner(rng):
    """A planner of random weights that is wide enough for K blocks."""
    whole = Qwen3(Qwen3Config(**SIZES)).requires_grad_(False)
    state = {
        name: torch.ones_like(value) if "norm" in name else 0.1 * torch.randn(value.shape, generator=rng(index))
        for index, (name, value) in enumerate(whole.state_dict().items())
    }
    whole.load_state_dict(state)
    return whole


@pytest.fixture(scope="session")
def small(tmp_path_factory, planner, ggufs):
    """small(kind) -> the file of that planner."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("small") / f"acestep-5Hz-lm-{kind}.gguf"
            state = planner.state_dict()
            tensors = {f"model.{name}": value for name, value in state.items()}
            tensors["model.lm_head.weight"] = state["embed_tokens.weight"]
            config = json.dumps({**SIZES, "acestep_role": "lm"})
            ggufs.write_file(made[kind], "acestep-lm", tensors, config, kind, WORDS)
        return made[kind]

    return get


@pytest.mark.parametrize(
    ("kind", "near", "share"), [("Q4_K_M", 0.95, 0.5), ("Q5_K_M", 0.985, 0.75), ("Q6_K", 0.99, 0.8)]
)
def test_a_planner_of_whole_k_blocks(kind, near, share, small, planner, rng):
    """Cosine, and how often the likeliest next code is the same one; weights and prompts are random, and so many codes
    nearly as likely as another."""
    packed = build_part(probe(small(kind)), "lm", dtype=torch.float32, packing=STAYING)
    blocks = [layer.block for layer in packed.modules() if isinstance(layer, BlockLinear)]
    assert {name for name, block in BLOCKS.items() if block in blocks} == {kind.removesuffix("_M"), "Q6_K"}
    ids = torch.randint(0, 700, (8, 64), generator=rng(99))
    with torch.inference_mode():
        first, second = (net.logits(net(ids)) for net in (planner, packed))
    assert float(F.cosine_similarity(first.flatten(), second.flatten(), dim=0)) > near
    alike = (first[..., 600:].argmax(-1) == second[..., 600:].argmax(-1)).float().mean()
    assert float(alike) > share


def test_every_truncation_is_told(small, tmp_path):
    whole = small("Q8_0").read_bytes()
    header = min(read_gguf(small("Q8_0")).starts.values())
    path = tmp_path / "short.gguf"
    for length in (*range(4, header, 97), header, header + 100, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"short\.gguf: .*(cut off|damaged)"):
            probe(path)


def test_spoiled_headers_never_crash(small, tmp_path, rng):
    """Random bytes anywhere in the header: an error in words, or a file that says something else."""
    whole = bytearray(small("Q8_0").read_bytes())
    place = whole.index(b"general.architecture")
    path, random = tmp_path / "spoiled.gguf", rng(5)
    for _ in range(100):
        spoiled = bytearray(whole)
        spoiled[int(torch.randint(4, place + 200, (1,), generator=random))] = int(
            torch.randint(0, 256, (1,), generator=random)
        )
        path.write_bytes(spoiled)
        try:
            probe(path)
        except ValueError as error:
            assert "spoiled.gguf" in str(error)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw.replace(b"acestep-lm", b"llama-chat"), "architecture 'llama-chat'.*acestep-dit"),
        (lambda raw: raw[:4] + struct.pack("<I", 1) + raw[8:], "version 1"),
        (lambda raw: raw[:4] + struct.pack(">I", 3) + raw[8:], "version 50331648"),
    ],
)
def test_other_files_are_named(small, tmp_path, spoil, message):
    path = tmp_path / "other.gguf"
    path.write_bytes(spoil(small("Q8_0").read_bytes()))
    with pytest.raises(ValueError, match=rf"other\.gguf: .*{message}"):
        probe(path)


def test_a_kind_that_is_not_read_is_told(tmp_path, monkeypatch, small):
    monkeypatch.delitem(header_module.KINDS, 8)
    with pytest.raises(ValueError, match=r"quantised in a way that is not read: ggml's kinds 8 \(.*Q6_K"):
        probe(small("Q8_0"))


@pytest.mark.slow
def test_a_missing_tensor_is_told(tmp_path, upstream, ggufs):
    path = tmp_path / "part.gguf"
    ggufs.write_model(path, upstream.vae, "vae", change=lambda tensors: tensors.pop("decoder.conv1.bias"))
    with pytest.raises(ValueError, match=r"Missing \(1\): decoder\.conv1\.bias"):
        build_part(probe(path), "vae", dtype=torch.float32)


def test_tokens_are_stepped_over(small, monkeypatch):
    """A planner has 150 000 of them: no list is made of them until the tokenizer is asked for."""
    read = []
    text = header_module._Cursor.text
    monkeypatch.setattr(header_module._Cursor, "text", lambda self, most: read.append(1) or text(self, most))
    names = len(read_gguf(small("Q8_0")).shapes)
    assert names < len(read) < names + 20 < len(LETTERS)


@pytest.mark.slow
def test_a_head_of_its_own_is_told(tmp_path, upstream, ggufs):
    def other(tensors):
        tensors["model.lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)

    path = tmp_path / "head.gguf"
    for kind in ("BF16", "Q8_0"):
        ggufs.write_model(path, upstream.lm, "lm", kind, change=other)
        with pytest.raises(ValueError, match=r"head\.gguf: lm_head\.weight differs"):
            build_part(probe(path), "lm", dtype=torch.float32)
