"""Which released variant a decoder is, from what its file says of itself and, failing that, from its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..acestep_models.dit.config import DiTConfig
from ..acestep_models.tasks import VARIANTS, variant_named
from .host.schema import AUTO

_LONGEST_FIRST = sorted(VARIANTS, key=len, reverse=True)


@dataclass(frozen=True)
class Guess:
    """A variant, how it was found, and what the file says against it."""

    name: str
    why: str
    doubt: str = ""


def in_name(text: str) -> str | None:
    """The variant that a file or version name mentions as words of its own; the folders around it where it does not.

    A name with two variants in it (a merge) tells none.
    """
    names = re.sub(r"\.(safetensors|sft)$", "", text.lower()).replace("\\", "/").split("/")
    return next((found for found in map(_in_words, reversed(names)) if found is not None), None)


def _in_words(name: str) -> str | None:
    words = "-" + re.sub(r"[^a-z0-9]+", "-", name) + "-"
    found = [variant for variant in _LONGEST_FIRST if f"-{variant}-" in words]
    return found[0] if found and all(found[0].startswith(other) for other in found) else None


def choose_variant(choice: str, config: DiTConfig, name: str, whole: DiTConfig | None = None) -> Guess:
    """The variant to use for the decoder called `name`: the user's choice, else what the file says, else its name.

    A decoder that was saved alone says nothing of itself; `whole` is then the config of the model whose readers it
    has, which it was probably made from.

    Raises:
        ValueError: for an unknown choice, or when nothing tells the variant.
    """
    if choice != AUTO:
        variant_named(choice)
        return Guess(choice, "chosen", contradiction(choice, config))
    named, said = in_name(name), stated(config)
    if said is not None and (named is None or not _refines(named, said)):
        return Guess(said, "from the file")
    if named is not None and _agrees(named, config):
        return Guess(named, "from the file and its name" if said else "from the name")
    origin = None if whole is None or named is not None else stated(whole)
    if origin is not None:
        return Guess(origin, "of the conditioner's model; choose another if the decoder is not made from it")
    raise ValueError(
        f"variant: neither {name!r} nor its config says which one it is; "
        f"choose the variant (one of {', '.join(VARIANTS)})"
    )


def contradiction(variant: str, config: DiTConfig) -> str:
    """What a file says of itself where that is not the variant it is used as; nothing where the two agree."""
    said = stated(config)
    if said is not None:
        return "" if _refines(variant, said) else f"the file says {said}"
    return "" if _agrees(variant, config) else "the file says that it is no turbo model"


def differs(text: str, variant: str) -> bool:
    """Whether a text names another variant; one that names none, or several, tells nothing."""
    named = in_name(text)
    return named is not None and not (_refines(named, variant) or _refines(variant, named))


def stated(config: DiTConfig) -> str | None:
    """What the config says; `is_turbo` alone says turbo or nothing."""
    version = in_name(config.model_version or "")
    return version or ("turbo" if config.is_turbo else None)


def _refines(named: str, stated: str) -> bool:
    """Configs of all turbo variants may just say turbo: the name then tells which."""
    return named == stated or named.startswith(f"{stated}-")


def _agrees(named: str, config: DiTConfig) -> bool:
    return config.is_turbo is not False or not VARIANTS[named].distilled
