"""Which LoKrs a PEFT folder can hold, and that PEFT builds the same from it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from acestep_models.adapters.adapter import Adapter, AdapterFacts
from acestep_models.adapters.delta import LoKr, LowRank
from acestep_models.adapters.files import read_adapter
from acestep_models.adapters.peft_folder import peft_config, why_not
from acestep_models.adapters.write import write_adapter

NAME, OTHER = "layers.0.self_attn.q_proj", "layers.1.self_attn.k_proj"


def adapter(**deltas):
    names = {"q": NAME, "k": OTHER}
    return Adapter({names[key]: delta for key, delta in deltas.items()}, AdapterFacts("made here"))


def lokr(first, second, scale=1.0, rank=None):
    """kron of w1 `first` and w2 `second`, whole or of a rank."""
    right = (torch.randn(second),) if rank is None else (torch.randn(second[0], rank), torch.randn(rank, second[1]))
    return LoKr((torch.randn(first),), right, scale)


def test_the_config_says_what_peft_needs_to_build_the_same():
    """32 = 4 x 8 and 16 = 4 x 4 near the roots; a whole w2 [8, 8] needs a rank of at least 4."""
    made = adapter(q=lokr((4, 4), (8, 8), 0.5, rank=2), k=lokr((4, 4), (4, 8), 3.0))
    config = peft_config(made)
    assert (config["peft_type"], config["decompose_factor"], config["decompose_both"]) == ("LOKR", -1, False)
    ranks = {NAME: 2, OTHER: 4}
    for name, scale in ((NAME, 0.5), (OTHER, 3.0)):
        rank = config["rank_pattern"].get(name, config["r"])
        assert rank == ranks[name] and config["alpha_pattern"].get(name, config["alpha"]) == scale * rank


def test_a_factor_is_found_from_the_sizes():
    assert peft_config(adapter(q=lokr((2, 2), (16, 8)), k=lokr((2, 2), (8, 16))))["decompose_factor"] == 2


def test_a_folder_has_its_scale_in_the_config_alone(tmp_path):
    made = adapter(q=lokr((4, 4), (8, 8), 3.0))
    folder = write_adapter(made, tmp_path / "song", "peft")
    tensors = load_file(folder / "adapter_model.safetensors")
    assert set(tensors) == {f"base_model.model.{NAME}.lokr_w1", f"base_model.model.{NAME}.lokr_w2"}
    got = read_adapter(folder).deltas[NAME]
    assert torch.equal(got.matrix(), made.deltas[NAME].matrix())


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (adapter(q=lokr((4, 2), (8, 16))), "other sizes than PEFT chooses"),
        (adapter(q=LoKr((torch.randn(4, 1), torch.randn(1, 4)), (torch.randn(8, 8),))), "factored w1"),
        (adapter(q=LoKr((torch.randn(4, 4),), (torch.randn(8, 8, 2),))), "of a convolution"),
        (adapter(q=lokr((4, 4), (8, 8), rank=4)), "at so high a rank"),
        (adapter(q=lokr((4, 4), (8, 8)), k=LowRank(torch.randn(2, 8), torch.randn(8, 2))), "together with something"),
    ],
)
def test_what_peft_would_build_otherwise_is_refused(made, reason, tmp_path):
    assert reason in (why_not(made) or "")
    with pytest.raises(ValueError, match=f"'peft' cannot hold LoKr.*{reason}.*single or kohya"):
        write_adapter(made, tmp_path / "song", "peft")
    assert list(tmp_path.iterdir()) == []
