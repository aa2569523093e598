"""Every cell of the README's table of models is what the code's tables say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from acestep_models.loading.zoo import TEXT_ENCODER, VAE, ZOO
from acestep_models.tasks import TASKS, VARIANTS

README = Path(__file__).resolve().parents[1] / "README.md"
COLUMNS = ["model", "layouts and folders below `models/`", "size", "memory", "defaults", "tasks"]


def table():
    """First cell without marks -> the row's cells by column."""
    section = README.read_text(encoding="utf-8").split("## Models")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    start = next(index for index, line in enumerate(lines) if cells(line) == COLUMNS)
    rows = {}
    for line in lines[start + 2 :]:
        row = cells(line)
        if len(row) != len(COLUMNS):
            break
        rows[row[0].strip("`")] = dict(zip(COLUMNS, row, strict=True))
    return rows


def cells(line):
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def gigabytes(size):
    return f"{size / 1e9:.1f} GB"


def places(part):
    """`folder/file` (split), `folder/name/` (upstream)."""
    kinds = {True: "upstream", False: "split"}
    return " or ".join(
        f"`{source.category}/{source.target}{'/' * source.is_folder}` ({kinds[source.is_folder]})"
        for source in part.sources
    )


def test_table_has_exactly_the_models_of_the_code():
    assert list(table()) == [*ZOO, "text encoder", "VAE"]


@pytest.mark.parametrize("name", ZOO)
def test_row_of_a_model(name):
    row, model = table()[name], ZOO[name]
    assert row[COLUMNS[1]] == places(model.part)
    assert row["size"] == gigabytes(model.part.bytes)
    assert row["memory"] == gigabytes(model.memory_bytes)
    if model.variant is None:
        assert (row["defaults"], row["tasks"]) == ("–", "plans songs, writes codes, listens")
        return
    steps, shift, guidance = re.fullmatch(r"(\d+) steps, shift ([\d.]+), guidance ([\d.]+)", row["defaults"]).groups()
    variant = VARIANTS[model.variant]
    assert (int(steps), float(shift), float(guidance)) == (variant.steps, variant.shift, variant.guidance)
    assert row["tasks"].split(", ") == [task for task, spec in TASKS.items() if model.variant in spec.variants]


@pytest.mark.parametrize(("name", "part"), [("text encoder", TEXT_ENCODER), ("VAE", VAE)])
def test_row_of_a_shared_part(name, part):
    row = table()[name]
    assert row[COLUMNS[1]] == places(part)
    assert row["size"] == row["memory"] == gigabytes(part.bytes)
    assert row["defaults"] == "–"


def test_every_variant_has_a_model_and_every_size_its_variants():
    assert {model.variant for model in ZOO.values()} - {None} == set(VARIANTS)
    assert [model.variant for model in ZOO.values() if model.size == "XL"] == ["turbo", "base", "sft"]


def test_sources_that_the_readme_links_are_the_ones_the_code_asks():
    section = README.read_text(encoding="utf-8").split("## Models")[1].split("\n## ")[0]
    linked = set(re.findall(r"https://huggingface\.co/([\w.-]+/[\w.-]+)", section))
    first = {source.repo for model in ZOO.values() for source in model.part.sources}
    assert linked <= first | {source.repo for part in (TEXT_ENCODER, VAE) for source in part.sources}
    assert {part.sources[0].repo for part in (TEXT_ENCODER, VAE)} <= linked
