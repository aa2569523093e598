"""What the writing nodes made in this session: a file that was deleted is made again, though no input changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class _Made:
    """A file, and the inputs of the node that it was made with; `gone` stays, as a number may be taken again."""

    node: str
    values: Mapping[str, Any]
    path: Path
    gone: bool = False


class MadeFiles:
    """Files by what they were made of."""

    def __init__(self) -> None:
        self._made: list[_Made] = []

    def add(self, node: str, values: Mapping[str, Any], path: Path) -> None:
        """Remember a new file."""
        self._made.append(_Made(node, dict(values), path))

    def gone(self, node: str, values: Mapping[str, Any]) -> int:
        """How many of a node's files were deleted since: another number, another run.

        What is linked is None here, and was a value when the file was made.
        """
        given = {key: value for key, value in values.items() if value is not None}
        same = [
            made
            for made in self._made
            if made.node == node and all(made.values.get(key) == value for key, value in given.items())
        ]
        for made in same:
            made.gone = made.gone or not made.path.exists()
        return sum(made.gone for made in same)


# One for the process: the host keeps the output of a node, a name, without a look at the file of that name.
MADE = MadeFiles()
