"""Adapters added up, cut down and taken out of two models, against the sums and singular values themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acestep_models.adapters.adapter import Adapter, AdapterFacts, Skipped
from acestep_models.adapters.change import extract, merge, resize
from acestep_models.adapters.delta import DoRA, LowRank, merge_into
from acestep_models.adapters.svd import factor_matrix
from acestep_models.errors import Cancelled
from acestep_models.runtime import PlainRuntime

QUERY, UP = "layers.0.self_attn.q_proj", "layers.0.mlp.up_proj"


def singular_values(delta):
    return torch.linalg.svdvals(delta.matrix().double())


def test_low_ranks_are_added_up_exactly(make_adapter, play, relative_error):
    one, other = make_adapter(seed=1, names=("q_proj", "o_proj")), make_adapter(seed=2, names=("o_proj", "proj_in.1"))
    merged = merge([one, other], [0.5, -2.0])
    assert set(merged.deltas) == {*one.deltas, *other.deltas}
    for name, delta in merged.deltas.items():
        parts = [(adapter.deltas[name], by) for adapter, by in ((one, 0.5), (other, -2.0)) if name in adapter.deltas]
        assert delta.kind == "lora" and delta.rank == sum(part.rank for part, _ in parts)
        expected = sum(by * part.matrix() for part, by in parts)
        assert relative_error(delta.matrix(), expected) < 1e-6
    both = play((one.deltas, 0.5), (other.deltas, -2.0))
    assert relative_error(play((merged.deltas, 1.0)), both) < 1e-5


def test_other_kinds_meet_as_whole_matrices(make_adapter, relative_error):
    adapters = [make_adapter(kind, seed=seed, names=("q_proj",)) for seed, kind in enumerate(("lora", "lokr", "loha"))]
    merged = merge(adapters, [1.0, 0.5, 2.0])
    for name, delta in merged.deltas.items():
        matrices = [adapter.deltas[name].matrix() for adapter in adapters]
        assert delta.kind == "full"
        assert relative_error(delta.matrix(), matrices[0] + 0.5 * matrices[1] + 2 * matrices[2]) < 1e-6
    alone = merge([adapters[1], make_adapter(names=("o_proj",))], [0.5, 1.0])
    assert alone.deltas[QUERY].kind == "lokr"
    assert relative_error(alone.deltas[QUERY].matrix(), 0.5 * adapters[1].deltas[QUERY].matrix()) < 1e-6


def test_merging_keeps_what_all_say_and_every_trigger(make_adapter):
    one = make_adapter(base_variant="turbo", trigger="sax", metadata={"a": "1", "b": "2"}, notes=("first",))
    other = make_adapter(base_variant="base", trigger="choir", metadata={"a": "1", "b": "3"}, notes=("first",))
    facts = merge([one, other], [1.0, 0.25]).facts
    assert (facts.base_variant, facts.trigger, facts.metadata, facts.width) == (None, "sax, choir", {"a": "1"}, 32)
    assert facts.notes == ("first", "2 adapters merged at the strengths 1, 0.25")
    assert merge([one, other], [1.0, 0.0]).facts.base_variant == "turbo"


def test_what_cannot_be_merged_is_said(make_adapter):
    plain, dora = make_adapter(names=("q_proj",)), make_adapter("dora", names=("q_proj",))
    larger = replace(plain, facts=replace(plain.facts, width=2560))
    odd = replace(plain, deltas={QUERY: LowRank(torch.ones(1, 4), torch.ones(4, 1))})
    for adapters, strengths, message in (
        ([plain, dora], [1.0, 1.0], "a DoRA cannot be merged with another LoRA of the same module"),
        ([plain, larger], [1.0, 1.0], r"different sizes, width 32 and XL \(2560\)"),
        ([plain, odd], [1.0, 1.0], "different shapes"),
        ([plain, plain], [0.0, 0.0], "every strength is 0"),
        ([plain], [1.0, 2.0], "got 1 adapters and 2 strengths"),
    ):
        with pytest.raises(ValueError, match=message):
            merge(adapters, strengths)


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha", "full", "dora"])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_lower_rank_loses_the_discarded_singular_values(kind, rank, make_adapter, relative_error):
    adapter = make_adapter(kind, names=("q_proj", "down_proj"))
    resized, loss = resize(adapter, rank)
    for name, delta in adapter.deltas.items():
        values, got = singular_values(delta), resized.deltas[name]
        assert got.rank <= rank
        expected = float(values[rank:].norm())
        measured = float((delta.matrix() - got.matrix()).norm())
        assert measured == pytest.approx(expected, rel=1e-4, abs=1e-5 * float(values.norm()))
        assert loss.errors[name] == pytest.approx(expected, rel=1e-4, abs=1e-5 * float(values.norm()))
        assert loss.norms[name] == pytest.approx(float(values.norm()), rel=1e-5)
        if kind == "dora":
            assert isinstance(got, DoRA) and got.magnitude is delta.magnitude
    assert max(resized.facts.ranks) <= rank


def test_a_merge_resized_to_its_own_rank_is_itself(make_adapter, relative_error):
    merged = merge([make_adapter(seed=1), make_adapter(seed=2)], [1.0, 1.0])
    for name, delta in resize(merged, 8)[0].deltas.items():
        assert relative_error(delta.matrix(), merged.deltas[name].matrix()) < 1e-5


def test_the_loss_is_told_in_words():
    values = torch.diag(torch.tensor([2.0, 1.0, 0.5]))
    adapter = Adapter({UP: LowRank(values, torch.eye(3)), QUERY: LowRank(torch.ones(1, 3), torch.ones(3, 1))},
                      AdapterFacts("made here"))  # fmt: skip
    resized, loss = resize(adapter, 2)
    assert loss.errors == pytest.approx({UP: 0.5, QUERY: 0.0})
    assert loss.share == pytest.approx(0.5 / (4 + 1 + 0.25 + 9) ** 0.5)
    assert str(loss) == f"rank 2: keeps 98.2% of the change (error 13.25%; most in {UP}, error 21.82%)"
    assert resized.facts.notes == (str(loss),)
    assert str(resize(adapter, 3)[1]) == "rank 3: nothing is lost"


def test_a_convolution_keeps_its_taps(make_adapter):
    for kind in ("lora", "full"):
        resized, _ = resize(make_adapter(kind, names=("proj_in.1",)), 1)
        assert resized.deltas["proj_in.1"].down.shape == (1, 192, 2)


def test_the_search_in_large_matrices_loses_hardly_more_than_it_must(monkeypatch, rng):
    """A flat spectrum, as fine-tuned weights have it, is the worst case."""
    matrix = torch.randn(150, 200, generator=rng(3))
    values = torch.linalg.svdvals(matrix)
    monkeypatch.setattr("acestep_models.adapters.svd.EXACT_SIZE", 16)
    found = factor_matrix(matrix, 12)
    least = float(values[12:].norm())
    discarded = (matrix.double() - found.delta.matrix().double()).norm()  # not the tail of what the search has found
    assert found.error == pytest.approx(float(discarded), rel=1e-5)
    assert found.norm == pytest.approx(float(values.norm()), rel=1e-5)
    assert least * (1 - 1e-6) <= found.error <= 1.01 * least
    assert torch.equal(found.delta.up, factor_matrix(matrix, 12).delta.up)


def tuned_state(decoder, deltas):
    state = dict(decoder.state_dict())
    return state | {f"{name}.weight": merge_into(state[f"{name}.weight"], delta, 1.0) for name, delta in deltas.items()}


def test_what_was_merged_is_extracted(make_adapter, decoder, relative_error):
    adapter = make_adapter(names=("q_proj", "down_proj", "proj_in.1"))
    found = extract(decoder.state_dict(), tuned_state(decoder, adapter.deltas), 8)
    assert found.deltas.keys() == adapter.deltas.keys()
    for name, delta in adapter.deltas.items():
        assert relative_error(found.deltas[name].matrix(), delta.matrix()) < 1e-5
    assert (found.facts.width, found.skipped) == (32, ())
    assert found.deltas["proj_in.1"].down.shape == (8, 192, 2)


def test_an_extract_of_a_lower_rank_is_the_best_there_is(make_adapter, decoder):
    adapter = make_adapter("full", names=("q_proj",))
    found = extract(decoder.state_dict(), tuned_state(decoder, adapter.deltas), 4)
    lost = sum(float(singular_values(delta)[4:].norm()) ** 2 for delta in adapter.deltas.values())
    whole = sum(float(delta.matrix().norm()) ** 2 for delta in adapter.deltas.values())
    assert found.facts.notes[0].startswith(f"rank 4: keeps {1 - lost / whole:.1%} of the change")


def test_vectors_that_changed_are_named(decoder, make_adapter):
    tuned = tuned_state(decoder, make_adapter(names=("q_proj",)).deltas)
    tuned |= {key: tuned[key] + 1 for key in ("norm_out.weight", "scale_shift_table")}
    found = extract(decoder.state_dict(), tuned, 2)
    reason = "was changed too, but a LoRA changes matrices only"
    assert {one.key for one in found.skipped} == {"norm_out.weight", "scale_shift_table"}
    assert Skipped("norm_out.weight", reason) in found.skipped


def test_models_that_are_not_of_one_kind_are_named(decoder):
    state = dict(decoder.state_dict())
    fewer = {key: value for key, value in state.items() if not key.startswith("layers.1.")}
    wider = state | {f"{QUERY}.weight": torch.zeros(64, 32)}
    for tuned, rank, message in (
        (fewer, 4, "only one of them has layers.1.cross_attn.k_norm.weight.* and .* more"),
        (wider, 4, r"q_proj.weight is \[32, 32\] in the base and \[64, 32\] in the tuned"),
        (state, 4, "nothing to extract"),
        (state, 0, "rank: expected 1 or more, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            extract(state, tuned, rank)


def test_work_is_counted_and_can_be_cancelled(make_adapter):
    runtime, adapter = PlainRuntime(), make_adapter()
    resize(adapter, 1, runtime)
    assert runtime.last_progress == (len(adapter.deltas), len(adapter.deltas))
    runtime.cancel = True
    with pytest.raises(Cancelled):
        resize(adapter, 1, runtime)


@pytest.mark.parametrize("kinds", [("lora", "lora"), ("lora", "lokr"), ("full", "loha")])
def test_a_merge_to_a_rank_is_a_merge_that_is_resized(kinds, make_adapter, relative_error):
    adapters = [make_adapter(kind, seed=seed, names=("q_proj", "down_proj")) for seed, kind in enumerate(kinds)]
    runtime = PlainRuntime()
    cut = merge(adapters, [1.0, -0.5], 2, runtime)
    expected, loss = resize(merge(adapters, [1.0, -0.5]), 2)
    assert list(cut.deltas) == list(expected.deltas)
    for name, delta in cut.deltas.items():
        assert delta.rank == 2
        assert relative_error(delta.matrix(), expected.deltas[name].matrix()) < 1e-6
    assert (cut.facts.notes, cut.facts.ranks) == (expected.facts.notes, (2,))
    assert cut.facts.notes[-1] == str(loss)
    assert runtime.last_progress == (len(cut.deltas), len(cut.deltas))
    runtime.cancel = True
    for rank in (None, 2):
        with pytest.raises(Cancelled):
            merge(adapters, [1.0, 1.0], rank, runtime)
    with pytest.raises(ValueError, match="rank: expected 1 or more, got 0"):
        merge(adapters, [1.0, 1.0], 0)


def test_a_merge_has_a_guessed_alpha_only_where_all_have_one(make_adapter, relative_error):
    guess, known = make_adapter(seed=1, alpha_guessed=True), make_adapter(seed=2)
    assert not merge([guess, known], [1.0, 1.0]).facts.alpha_guessed
    alone = merge([guess], [0.5])
    assert alone.facts.alpha_guessed
    for name, delta in alone.deltas.items():
        assert delta.scale == 1
        assert relative_error(delta.matrix(), 0.5 * guess.deltas[name].matrix()) < 1e-6
