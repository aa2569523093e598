"""The host's layers as a head and as something to record: views and recordings only of weights that lie still."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

CPU, CARD = torch.device("cpu"), torch.device("cpu", 0)
BF16 = torch.bfloat16


@pytest.fixture
def table(pack):
    """The host's embedding over known numbers, in bf16."""
    ops = pack("host.ops").casting_ops()
    made = ops.Embedding(40, 8, dtype=BF16).requires_grad_(False)
    made.weight.copy_(torch.arange(320, dtype=torch.float32).view(40, 8) / 64)
    return ops, made


def test_a_plain_table_is_not_copied(table):
    ops, layer = table
    head = ops.rows(layer, 10, 30, torch.zeros(0, dtype=BF16))
    assert head.data_ptr() == layer.weight[10:].data_ptr()
    assert torch.equal(head, layer.weight[10:30])
    assert ops.lies_still(layer, torch.zeros(0))


def test_another_dtype_is_cast_once(table):
    ops, layer = table
    head = ops.rows(layer, 10, 30, torch.zeros(0, dtype=torch.float32))
    assert head.dtype == torch.float32
    assert torch.equal(head, layer.weight[10:30].float())


@pytest.mark.parametrize("name", ["weight_function", "weight_lowvram_function"])
def test_a_table_that_is_patched_at_use_is_asked_for_its_rows(table, name):
    ops, layer = table
    layer.weight_function = [lambda weight: weight + 1]
    if name != "weight_function":
        setattr(layer, name, object())
    head = ops.rows(layer, 10, 30, torch.zeros(0, dtype=BF16))
    assert torch.equal(head, layer.weight[10:30] + 1)
    assert not ops.lies_still(layer, torch.zeros(0))


def test_a_table_that_newer_hosts_bring_in_is_asked_for_its_rows(table):
    ops, layer = table
    layer._v = object()
    head = ops.rows(layer, 10, 30, torch.zeros(0, dtype=BF16))
    assert head.data_ptr() != layer.weight[10:].data_ptr()
    assert torch.equal(head, layer.weight[10:30])
    assert not ops.lies_still(layer, torch.zeros(0))


def test_a_streamed_table_gives_rows_where_they_are_needed(table, fake_gpu):
    fake_gpu(1 << 30)
    ops, layer = table
    head = ops.rows(layer, 10, 30, torch.zeros(0, dtype=BF16, device=CARD))
    assert torch.equal(head, layer.weight[10:30])


def test_one_streamed_layer_is_enough_not_to_record(pack):
    ops = pack("host.ops").casting_ops()
    module = torch.nn.Sequential(ops.Linear(4, 4), ops.RMSNorm(4))
    assert ops.lies_still(module, torch.zeros(0))
    module[0].weight_function = [lambda weight: weight]
    assert not ops.lies_still(module, torch.zeros(0))
    assert not ops.lies_still(module[1], torch.zeros(0, device="meta"))


@pytest.mark.parametrize("share", [1000.0, 0.9], ids=["resident", "streamed"])
def test_codes_are_those_of_plain_layers(pack, core, fake_gpu, share):
    """The planner made of the host's layers, whole or partly on the card, against torch's layers."""
    network, decode = core("qwen3.model"), core("planner.decode")
    config = network.Qwen3Config(700, 64, 128, 4, 4, 2, head_dim=16)
    torch.manual_seed(0)
    plain = network.Qwen3(config).eval().requires_grad_(False)
    hosted = network.Qwen3(config, pack("host.ops").casting_ops()).requires_grad_(False)
    hosted.load_state_dict(plain.state_dict())
    request = decode.CodesRequest(((3, 4, 5, 6),), (7, 8), 20, (1,))
    size = sum(parameter.nbytes for parameter in plain.parameters())
    fake_gpu(int(size * share))  # the host fills two fifths of a crowded card with weights
    owned = pack("host.runtime").handle(hosted, torch.float32, CARD, CPU)
    places = {owned: pack("host.runtime").HostRuntime(), core("runtime").Handle(plain, torch.float32): None}
    codes = []
    for handle, runtime in places.items():
        lm = core("planner.lm").LM(handle, None, "toy")
        lm.__dict__["vocabulary"] = SimpleNamespace(code_base=600, im_end=5)
        codes.append(decode.write_codes(runtime or core("runtime").PlainRuntime(), lm, request))
    assert codes[0] == codes[1]
    assert len(codes[0][0]) == 20
    assert (owned.owner.loaded_size() < size) == (share < 1)
