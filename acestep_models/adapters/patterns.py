"""Names in a PEFT config: regular expressions from a file, which must never be able to hang."""

from __future__ import annotations

import re
from math import prod

LONGEST = 200  # characters of an expression
LONGEST_NAME = 100  # of a module; no decoder's comes near it, so that a longer one is nobody's
# A search takes at most about choices * length ** repeats steps; both are bounded together.
MOST_REPEATS, MOST_CHOICES, CHOICES_A_REPEAT = 3, 4096, 8

_ATOM = re.compile(r"(?P<escape>\\.)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<open>\((?:\?:)?)|(?P<any>.)", re.DOTALL)
_REPEAT = re.compile(r"(?P<wide>[*+]|\{\d*(?:,\d*)?\})[?+]?|(?P<maybe>\?)[?+]?")


class Patterns:
    """The patterns of one config, each judged and compiled once."""

    def __init__(self) -> None:
        self._compiled: dict[str, re.Pattern[str]] = {}

    def matches(self, table: str, pattern: str, name: str) -> bool:
        """Whether a pattern means a module as PEFT reads it: its whole name or the end of it after a dot.

        Args:
            table: where the pattern stands in adapter_config.json, for the error.

        Raises:
            ValueError: for what is no regular expression, and for one that could take for ever.
        """
        if pattern not in self._compiled:
            self._compiled[pattern] = _compiled(table, pattern)
        return len(name) <= LONGEST_NAME and self._compiled[pattern].match(name) is not None


def _compiled(table: str, pattern: str) -> re.Pattern[str]:
    problem = f"is longer than {LONGEST} characters" if len(pattern) > LONGEST else None
    try:
        problem = problem or _why_slow(re.compile(pattern).pattern)
        if problem is None:
            return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        problem = f"is no regular expression ({error})"
    raise ValueError(f"adapter_config.json: {table} has the key {pattern!r}, which {problem}; correct it")


def _why_slow(pattern: str) -> str | None:
    """What in a valid expression could make a search take for ever, or could not be judged; None for a harmless one.

    Repeats inside repeats and alternatives inside repeats take exponential time, many of either in a row a high power.
    """
    groups: list[list[int]] = [[0, 0]]  # of every open group: repeats and bars inside
    repeats, choices, at = 0, [1], 0
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        assert atom is not None  # its last branch takes any character
        at, text = atom.end(), atom[0]
        inside = [0, 0]
        if atom["open"]:
            if pattern.startswith("?", at):
                return "has a group of the form (?...), and only plain groups and (?:...) are read"
            groups.append([0, 0])
            continue
        if text == "|":
            groups[-1][1] += 1
            continue
        if text == ")":
            inside = groups.pop()
            choices.append(inside[1] + 1)
            groups[-1] = [groups[-1][0] + inside[0], groups[-1][1] + inside[1]]
        if atom["escape"] and text[1].isdigit():
            return "refers back to a group, which is not read"
        if repeat := _REPEAT.match(pattern, at):
            at = repeat.end()
            if repeat["wide"] and any(inside):
                return "repeats a group that has repeats or alternatives inside, which could take for ever"
            groups[-1][0] += 1
            repeats += bool(repeat["wide"])
            choices.append(2 if repeat["maybe"] else 1)
    cost = prod(choices) * (groups[0][1] + 1) * CHOICES_A_REPEAT**repeats
    if repeats > MOST_REPEATS or cost > MOST_CHOICES:
        return f"has too many repeats and choices (up to {MOST_REPEATS} repeats), which could take for ever"
    return None
