"""`make show-4`: a tiny planner with random weights writes plans and codes, and every one of them is checked.

10 000 think blocks with whatever mixture of fixed and free fields, 500 songs of 10 to 20 s with codes, 3 of 600 s: all
must parse, with the user's values verbatim, free values in their domain and exactly 5 codes a second.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from acestep_models.blueprint import KEYS, LANGUAGES, MAX_BPM, MIN_BPM, TIME_SIGNATURES, Blueprint  # noqa: E402
from acestep_models.lm_prompts import inspire_prompt, plan_prompt  # noqa: E402
from acestep_models.planner.codes import CodesOptions, write  # noqa: E402
from acestep_models.planner.generate import write_text  # noqa: E402
from acestep_models.planner.grammar import BlockWriter, Field, Outline  # noqa: E402
from acestep_models.planner.lm import LM  # noqa: E402
from acestep_models.planner.parse import FIELDS, read_answer, split_fields  # noqa: E402
from acestep_models.planner.plan import PlanOptions, plan  # noqa: E402
from acestep_models.planner.sampling import TokenSampling  # noqa: E402
from acestep_models.planner.vocabulary import DOMAINS, NAMES  # noqa: E402
from acestep_models.qwen3.model import Qwen3  # noqa: E402
from acestep_models.qwen3.tokenizer import Tokenizer  # noqa: E402
from acestep_models.runtime import Handle, PlainRuntime  # noqa: E402
from acestep_models.tiny.sizes import sizes  # noqa: E402
from acestep_models.tiny.tokens import planner_json, planner_rows  # noqa: E402
from acestep_models.tiny.weights import random_state  # noqa: E402
from acestep_models.units import CODEBOOK_SIZE, MAX_SECONDS, MAX_SONGS, seconds_to_codes  # noqa: E402

LETTERS = "abc :'\"#-,.[]{}&*!|>%@`\n\té漢🎵"
CAPTION_TOKENS = 40


@dataclass
class Count:
    """How many were checked, and what was wrong."""

    checked: int = 0
    faults: list[str] = field(default_factory=list)

    def check(self, good: bool, fault: str) -> None:
        """One claim."""
        self.checked += 1
        if not good:
            self.faults.append(fault)


def tiny_planner(seed: int) -> LM:
    """Random weights, the tiny tokenizer, all 64 000 codes."""
    rows = planner_rows()
    model = Qwen3(sizes("2b", rows - CODEBOOK_SIZE, rows).lm)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(random_state("lm", shapes, seed))
    return LM(Handle(model.eval(), torch.float32), Tokenizer.from_json(planner_json()), "tiny, random")


def random_song(chance: random.Random) -> Blueprint:
    """Each field is set or not; texts are full of what YAML finds hard."""
    words = "".join(chance.choice(LETTERS) for _ in range(chance.randrange(1, 120))).strip() or "x"
    values: dict[str, Any] = {
        "bpm": chance.randint(MIN_BPM, MAX_BPM),
        "caption": words,
        "seconds": chance.randint(10, 600),
        "genres": "folk, 'jazz'",
        "key": chance.choice(KEYS),
        "language": chance.choice(LANGUAGES),
        "time_signature": chance.choice(TIME_SIGNATURES),
    }
    return Blueprint(**{name: value for name, value in values.items() if chance.random() < 0.4})


def random_outline(chance: random.Random, song: Blueprint) -> Outline:
    """The set fields fixed, most of the others free, now and then lyrics."""
    fields = []
    for name in NAMES:
        value = getattr(song, FIELDS[name]) if song.is_set(FIELDS[name]) else None
        if value is not None or chance.random() < 0.9:
            fields.append(Field(name, int(value) if name == "duration" and value is not None else value))
    return Outline(tuple(fields), chance.random() < 0.1, caption_tokens=CAPTION_TOKENS, lyric_tokens=30)


def check_block(count: Count, lm: LM, outline: Outline, song: Blueprint, ids: list[int]) -> None:
    """Every free field read and in its domain, every fixed one verbatim, as far as the text goes."""
    answer, written = read_answer(lm.vocabulary, ids), block_lines(lm, ids)
    count.check(not answer.problems, f"problems {answer.problems}")
    free = [one.name for one in outline.fields if one.value is None]
    count.check(set(free) <= written.keys(), f"free {free}, written {list(written)}")
    for one in outline.fields:
        if one.name not in written:
            continue
        place, raw = FIELDS[one.name], written[one.name].strip()
        read = answer.values.get(place)
        if one.value is None:
            legal = raw.strip("'") in DOMAINS[one.name] if one.name in DOMAINS else bool(read)
            count.check(legal and read is not None, f"{one.name} came out as {raw!r}")
        else:
            given = getattr(song, place)
            same = " ".join(given.split()) == read if isinstance(given, str) else given == read
            count.check(same, f"{one.name} should be {given!r}, came out as {read!r}")


def block_lines(lm: LM, ids: list[int]) -> dict[str, str]:
    """The raw fields of a think block."""
    end = lm.vocabulary.think_end
    return split_fields(lm.tokenizer.decode(ids[1 : ids.index(end) if end in ids else len(ids)]))


def batches(total: int, size: int = MAX_SONGS) -> Iterator[range]:
    """0 to total in pieces of `size`."""
    return (range(start, min(start + size, total)) for start in range(0, total, size))


def show_blocks(lm: LM, total: int) -> Count:
    """Blocks of noise, each checked at its first attempt."""
    count, runtime = Count(), PlainRuntime()
    for places in batches(total):
        chances = [random.Random(place) for place in places]
        songs = [random_song(chance) for chance in chances]
        outlines = [random_outline(chance, song) for chance, song in zip(chances, songs, strict=True)]
        writers = [BlockWriter(lm.vocabulary, outline) for outline in outlines]
        text = plan_prompt("x", "la") if places[0] % 16 else inspire_prompt("a song")
        prompts = [lm.tokenizer.encode(text)] * len(songs)
        limit = max(writer.most_tokens for writer in writers)
        # Hotter than usual, or a small model says the same again and again.
        found = write_text(runtime, lm, prompts, writers, list(places), TokenSampling(1.5, 1.0), limit)
        for outline, song, ids in zip(outlines, songs, found, strict=True):
            check_block(count, lm, outline, song, ids)
        report("blocks", places[-1] + 1, total)
    return count


def show_songs(lm: LM, total: int) -> Count:
    """Planned and written from a sentence, or from a draft; batches have one duration."""
    count, runtime, chance = Count(), PlainRuntime(), random.Random(1)
    for places in batches(total):
        seconds = chance.randint(50, 100) / 5
        drafts = [replace(random_song(chance), seconds=seconds) for _ in places]
        options = PlanOptions(
            chance.choice(("simple", "format", "plan", "rewrite")),
            sentence="a song",
            songs=len(drafts),
            different=True,
            seed=places[0],
            caption_tokens=CAPTION_TOKENS,
            lyric_tokens=CAPTION_TOKENS,
        )
        written = write(runtime, lm, plan(runtime, lm, drafts, options), CodesOptions(seed=places[0]))
        for draft, song in zip(drafts, written, strict=True):
            check_song(count, draft, song, options.mode)
        report("songs", places[-1] + 1, total)
    return count


def check_song(count: Count, draft: Blueprint, song: Blueprint, mode: str) -> None:
    """The user's values are there, the gaps are filled, the codes are right."""
    rewritten = {"caption"} if mode in ("format", "rewrite") else set()
    for name in FIELDS.values():
        if draft.is_set(name) and name not in rewritten:
            same = getattr(song, name) == getattr(draft, name)
            count.check(same, f"{name} should be {getattr(draft, name)!r}, is {getattr(song, name)!r}")
        elif name != "genres":
            count.check(song.is_set(name), f"{name} is unset after mode {mode}")
    check_codes(count, song)


def check_codes(count: Count, song: Blueprint) -> None:
    """Exactly 5 a second, all of the codebook."""
    codes, expected = song.codes or (), seconds_to_codes(song.seconds or 0.0)
    count.check(len(codes) == expected, f"{len(codes)} codes for {song.seconds} s")
    count.check(all(0 <= code < CODEBOOK_SIZE for code in codes), f"codes up to {max(codes, default=-1)}")


def show_long(lm: LM, total: int) -> Count:
    """The longest songs, side by side."""
    count, runtime = Count(), PlainRuntime()
    draft = Blueprint(caption="x", lyrics="la\n" * 500, bpm=90, seconds=MAX_SECONDS)
    for song in write(runtime, lm, [draft] * total, CodesOptions(seed=7)):
        check_codes(count, song)
    report("long songs", total, total)
    return count


def report(what: str, done: int, total: int) -> None:
    """One line that writes over itself, where somebody watches."""
    if done == total or sys.stdout.isatty():
        print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", flush=True)


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 10_000), ("songs", 500), ("long", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    lm, faults = tiny_planner(0), 0
    for name, show in (("blocks", show_blocks), ("songs", show_songs), ("long", show_long)):
        total = getattr(wanted, name)
        start = time.monotonic()
        count = show(lm, total)
        faults += len(count.faults)
        seconds = time.monotonic() - start
        print(f"{name}: {total} in {seconds:.0f} s, {count.checked} checks, {len(count.faults)} faults")
        print(*(f"  {fault}" for fault in count.faults[:10]), sep="\n", end="\n" if count.faults else "")
    print("all as promised" if not faults else f"{faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
