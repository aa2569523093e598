"""Adapters made from others: several added up, one at another rank, one from what tells two models apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import hypot

import torch
from torch import Tensor

from ..runtime import PlainRuntime, Runtime
from .adapter import Adapter, AdapterFacts, Skipped
from .delta import Delta, DoRA, Full, LowRank
from .match import describe_width, width_of
from .svd import Factored, factor_matrix, factor_product

_WEIGHT = ".weight"
_SHOWN = 3
_ROUNDING = 1e-6  # of a delta: float32 leaves so much where nothing was cut


@dataclass(frozen=True)
class Loss:
    """What a smaller rank costs.

    Attributes:
        rank: what was asked for.
        errors: module -> Frobenius norm of what was lost, whole less cut: in large matrices, where only the largest
            singular values are sought, measured and a little above the least possible (svd.py).
        norms: module -> Frobenius norm of the whole delta.
    """

    rank: int
    errors: Mapping[str, float]
    norms: Mapping[str, float]

    @property
    def share(self) -> float:
        """Lost of the whole, 0 to 1: the norms of all modules together."""
        norm = hypot(*self.norms.values())
        return hypot(*self.errors.values()) / norm if norm else 0.0

    def __str__(self) -> str:
        parts = ((name, error, self.norms[name]) for name, error in self.errors.items())
        shares = {name: error / norm for name, error, norm in parts if error > _ROUNDING * norm}
        if not shares:
            return f"rank {self.rank}: nothing is lost"
        worst = max(shares, key=shares.__getitem__)
        return (
            f"rank {self.rank}: keeps {1 - self.share**2:.1%} of the change (error {self.share:.2%}; most in {worst}, "
            f"error {shares[worst]:.2%})"
        )


def merge(
    adapters: Sequence[Adapter], strengths: Sequence[float], rank: int | None = None, runtime: Runtime | None = None
) -> Adapter:
    """One adapter that does what these do together: their deltas added up, each times its strength.

    Exact: low ranks are put side by side, so that ranks add up; other kinds become whole matrices where they meet.

    Args:
        rank: cut every module to it as `resize` does, as soon as it is added up; the notes say what that loses.

    Raises:
        ValueError: for none, for adapters of different decoders, and for a DoRA where another adapter changes the same
            module: what a DoRA adds depends on the weight.
    """
    if not adapters or len(adapters) != len(strengths):
        raise ValueError(f"one strength for every adapter: got {len(adapters)} adapters and {len(strengths)} strengths")
    _check_widths(adapters)
    used = [(adapter, strength) for adapter, strength in zip(adapters, strengths, strict=True) if strength != 0]
    names = dict.fromkeys(name for adapter, _ in used for name in adapter.deltas)
    if not names:
        raise ValueError("every strength is 0, so that nothing is left to merge: set one of them")
    parts = ((name, _together(name, used)) for name in names)
    deltas, loss = _cut_all(parts, len(names), rank, runtime or PlainRuntime())
    skipped = tuple(one for adapter, _ in used for one in adapter.skipped)
    facts = _merged_facts([adapter.facts for adapter, _ in used], used, deltas)
    notes = facts.notes if loss is None else (*facts.notes, str(loss))
    return Adapter(deltas, replace(facts, notes=notes), skipped)


def resize(adapter: Adapter, rank: int, runtime: Runtime | None = None) -> tuple[Adapter, Loss]:
    """The adapter with at most `rank` in every module, and what that loses: the best that so low a rank can do.

    LoKr, LoHa and whole matrices become low-rank; a DoRA keeps its magnitudes. Modules of a lower rank stay.
    """
    found, loss = _cut_all(adapter.deltas.items(), len(adapter.deltas), rank, runtime or PlainRuntime())
    assert loss is not None  # a rank was given
    return Adapter(found, _counted(adapter.facts, found, (str(loss),)), adapter.skipped), loss


def extract(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], rank: int, runtime: Runtime | None = None
) -> Adapter:
    """What was trained into `tuned` since `base`, as a low-rank adapter; its notes say how much of it that holds.

    Args:
        base, tuned: the decoder's state ("layers.0.self_attn.q_proj.weight" -> [out, in, taps ...]); either may make
            its tensors on request.

    Raises:
        ValueError: if the two are of different decoders, or the same.
    """
    _check_rank(rank)
    _check_states(base, tuned)
    runtime = runtime or PlainRuntime()
    found: dict[str, Delta] = {}
    skipped: list[Skipped] = []
    errors, norms = {}, {}
    for index, key in enumerate(tuned):
        runtime.check_cancelled()
        diff = _difference(key, base[key], tuned[key])
        if diff is not None and key.endswith(_WEIGHT) and diff.ndim > 1:
            name = key.removesuffix(_WEIGHT)
            cut = factor_matrix(diff.flatten(1), rank)
            found[name], errors[name], norms[name] = _with_taps(cut, diff.shape)
        elif diff is not None:
            skipped.append(Skipped(key, "was changed too, but a LoRA changes matrices only"))
        runtime.progress(index + 1, len(tuned))
    if not found:
        raise ValueError("the two models have the same matrices: there is nothing to extract. Choose two that differ")
    width = width_of({name: delta.shape for name, delta in found.items()})
    facts = AdapterFacts("extracted", width=width)
    return Adapter(found, _counted(facts, found, (str(Loss(rank, errors, norms)),)), tuple(skipped))


def _check_rank(rank: int) -> None:
    if rank < 1:
        raise ValueError(f"rank: expected 1 or more, got {rank}")


def _cut_all(
    deltas: Iterable[tuple[str, Delta]], total: int, rank: int | None, runtime: Runtime
) -> tuple[dict[str, Delta], Loss | None]:
    """Deltas by module, each cut to a rank before the next one is made; None leaves them, and there is no loss."""
    if rank is not None:
        _check_rank(rank)
    found: dict[str, Delta] = {}
    errors: dict[str, float] = {}
    norms: dict[str, float] = {}
    for index, (name, delta) in enumerate(deltas):
        runtime.check_cancelled()
        if rank is not None:
            cut, errors[name], norms[name] = _cut(delta.delta if isinstance(delta, DoRA) else delta, rank)
            delta = replace(delta, delta=cut) if isinstance(delta, DoRA) else cut
        found[name] = delta
        runtime.progress(index + 1, total)
    return found, None if rank is None else Loss(rank, errors, norms)


def _check_widths(adapters: Sequence[Adapter]) -> None:
    widths = sorted({adapter.facts.width for adapter in adapters if adapter.facts.width is not None})
    if len(widths) > 1:
        words = " and ".join(map(describe_width, widths))
        raise ValueError(f"these LoRAs are for decoders of different sizes, {words}: merge those of one size")


def _together(name: str, used: Sequence[tuple[Adapter, float]]) -> Delta:
    """What all of them add to one module."""
    total = _sum(name, [adapter.deltas[name].scaled(by) for adapter, by in used if name in adapter.deltas])
    guessed = _guessed(adapter.facts for adapter, _ in used)
    # Where no alpha is known the scale has to stay 1: an alpha that is told later comes in its place.
    return _side_by_side([total]) if guessed and isinstance(total, LowRank) and total.scale != 1 else total


def _guessed(facts: Iterable[AdapterFacts]) -> bool:
    """Whether a sum has no alpha: where one of the parts has one, another cannot be told for all of it."""
    return all(one.alpha_guessed for one in facts)


def _sum(name: str, deltas: list[Delta]) -> Delta:
    if len(deltas) == 1:
        return deltas[0]
    if any(isinstance(delta, DoRA) for delta in deltas):
        raise ValueError(
            f"{name}: a DoRA cannot be merged with another LoRA of the same module, because what it adds depends on "
            "the weight. Apply them one after the other instead"
        )
    if len(shapes := {delta.shape for delta in deltas}) > 1:
        raise ValueError(
            f"{name}: these LoRAs are for weights of different shapes, {sorted(shapes)}, and do not add up"
        )
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    if len(low) < len(deltas):
        return Full(reduce(torch.add, (delta.matrix() for delta in deltas)))
    return _side_by_side(low)


def _side_by_side(deltas: list[LowRank]) -> LowRank:
    """Ranks add up; the scales go into the ups, as the parts have different ones."""
    same_taps = len({delta.down.shape[1:] for delta in deltas}) == 1
    downs = [delta.down.float() if same_taps else delta.down.flatten(1).float() for delta in deltas]
    ups = [delta.up.flatten(1).float() * delta.scale for delta in deltas]
    return LowRank(torch.cat(downs), torch.cat(ups, dim=1))


def _cut(delta: Delta, rank: int) -> tuple[Delta, float, float]:
    """The delta at a lower rank; norms of what was lost and of the whole."""
    if isinstance(delta, LowRank):
        cut = factor_product(delta, rank)
        return (delta, 0.0, cut.norm) if delta.rank <= rank else _with_taps(cut, delta.down.shape)
    matrix = delta.matrix()
    if min(matrix.shape) == 1:  # a vector's difference: no rank could be lower
        return delta, 0.0, float(matrix.norm())
    return _with_taps(factor_matrix(matrix, rank), delta.diff.shape if isinstance(delta, Full) else matrix.shape)


def _with_taps(cut: Factored, shape: torch.Size) -> tuple[LowRank, float, float]:
    """The down half as [rank, in, taps], which PEFT wants of a convolution; `shape` ends so."""
    down = cut.delta.down.reshape(-1, *shape[1:])  # [rank, in, taps ...]
    return replace(cut.delta, down=down).to(torch.device("cpu")), cut.error, cut.norm


def _check_states(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    if odd := sorted(base.keys() ^ tuned.keys()):
        shown = ", ".join(odd[:_SHOWN]) + (f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else "")
        raise ValueError(
            f"the two models are not of the same decoder: only one of them has {shown}. Choose a model and the one "
            "that it was trained from"
        )


def _difference(key: str, base: Tensor, tuned: Tensor) -> Tensor | None:
    """tuned - base in float32, None where they are equal."""
    if base.shape != tuned.shape:
        raise ValueError(
            f"{key} is {list(base.shape)} in the base and {list(tuned.shape)} in the tuned model: they are decoders of "
            "different sizes. Choose a model and the one that it was trained from"
        )
    diff = tuned.detach().float() - base.detach().to(tuned.device).float()
    return diff if bool(diff.any()) else None


def _counted(facts: AdapterFacts, deltas: Mapping[str, Delta], notes: tuple[str, ...]) -> AdapterFacts:
    """Ranks and alphas as they are now."""
    inner = [delta.delta if isinstance(delta, DoRA) else delta for delta in deltas.values()]
    ranks = {delta.rank for delta in inner if delta.rank is not None}
    alphas = {round(delta.scale * delta.rank, 6) for delta in inner if isinstance(delta, LowRank)}
    return replace(facts, ranks=tuple(sorted(ranks)), alphas=tuple(sorted(alphas)), notes=facts.notes + notes)


def _merged_facts(
    facts: list[AdapterFacts], used: list[tuple[Adapter, float]], deltas: Mapping[str, Delta]
) -> AdapterFacts:
    """What all of them say; every trigger."""
    variants, positions, conditionings = (
        {getattr(one, name) for one in facts} for name in ("base_variant", "trigger_position", "conditioning")
    )
    triggers = dict.fromkeys(one.trigger for one in facts if one.trigger)
    shared = reduce(lambda left, right: dict(left.items() & right.items()), (one.metadata for one in facts))
    strengths = ", ".join(f"{strength:g}" for _, strength in used)
    notes = tuple(dict.fromkeys(note for one in facts for note in one.notes))
    merged = AdapterFacts(
        "merged",
        width=next((one.width for one in facts if one.width is not None), None),
        base_variant=_only(variants),
        trigger=", ".join(triggers) or None,
        trigger_position=_only(positions),
        conditioning=_only(conditionings),
        metadata=shared,
        notes=notes,
        alpha_guessed=_guessed(facts),
    )
    return _counted(merged, deltas, (f"{len(used)} adapters merged at the strengths {strengths}",))


def _only(values: set[str | None]) -> str | None:
    return values.pop() if len(values) == 1 else None
