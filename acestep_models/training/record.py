"""What a run folder says of its run: run.json (what it was told), final/result.json (how it ended)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dit.transformer import DiT
from .around import Result
from .checkpoint import FOLDER
from .examples import Prepared
from .files import carry_over, check_folder, files_in, listed, what_differs, write_text
from .marks import song_mark, weights_mark
from .options import FREE, TrainOptions

RUN, FINAL, RESULT, PEFT, PREPARED = "run.json", "final", "result.json", "adapter", "prepared"
_SHORT = 16  # digits of a mark that are kept


@dataclass(frozen=True)
class Record:
    """What is learned, and from what.

    Attributes:
        settings: everything that must be the same when the run goes on, by name.
        steps: how long it is, which may grow.
        told: the rest of the options.
        songs: a mark of each, by name.
        model: what the facts call the model; "" is not known.
    """

    settings: Mapping[str, Any]
    steps: int
    told: Mapping[str, Any]
    songs: Mapping[str, str]
    model: str = ""

    def write(self, folder: Path) -> None:
        """Put run.json into the run folder."""
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        about = {"steps": self.steps, **self.told, "model": self.model, "versions": versions, "songs": dict(self.songs)}
        values = {"settings": dict(self.settings), **about}
        write_text(folder / RUN, json.dumps(values, indent=2, ensure_ascii=False))

    def compare(self, folder: Path, whole: bool = True) -> None:
        """Pass if the folder has no run yet, or this one; not `whole`: of what is in `settings` here.

        Raises:
            ValueError: lists every setting and song that differs; or the folder holds something else.
        """
        check_folders(folder)
        try:
            said = json.loads((folder / RUN).read_text(encoding="utf-8"))
            before = said["settings"]
            before.keys()
        except FileNotFoundError:
            _check_strange(folder)
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / RUN}: cannot be read ({error}). Choose another name, or remove that folder"
            ) from error
        now = json.loads(json.dumps(dict(self.settings)))
        lines = [
            self._difference(name, before.get(name), now.get(name), said)
            for name in sorted(before.keys() | now.keys() if whole else now.keys())
            if before.get(name) != now.get(name)
        ]
        if lines:
            raise ValueError(
                f"{folder}: a run of this name was made with other settings, so it cannot go on.\n"
                + "\n".join(lines)
                + "\nChoose another name, or set them back."
            )

    def _difference(self, name: str, before: Any, now: Any, said: Mapping[str, Any]) -> str:
        """One line of what is not as it was."""
        if name == "base":
            return f"base: another model, or other LoRAs before it{_models(said.get('model'), self.model)}"
        songs = self._songs_that_differ(said.get("songs")) if name == "dataset" else ""
        return songs or f"{name}: the run has {_word(before)}, now {_word(now)}"

    def _songs_that_differ(self, before: Any) -> str:
        """In words; nothing where that is not known."""
        if not isinstance(before, dict):
            return ""
        now = self.songs
        kinds = {
            "changed": [name for name in now if name in before and before[name] != now[name]],
            "new": [name for name in now if name not in before],
            "gone": [name for name in before if name not in now],
        }
        said = [f"{kind}: {_first(names)}" for kind, names in kinds.items() if names]
        return f"dataset: its songs differ ({'; '.join(said)})" if said else ""

    def finished(self, folder: Path) -> Result | None:
        """The result of the same run where it ended as long as it is now asked for, else None."""
        result = read_result(folder)
        if result is None or result.stopped or result.steps != self.steps or damage(folder):
            return None
        return result


def compare_options(folder: Path, options: TrainOptions, variant: str, data: Prepared | None = None) -> None:
    """As `Record.compare`, before a decoder is made, and without `data` before songs are encoded: of what is known."""
    known = _fixed(options) | {"variant": variant} | ({} if data is None else {"dataset": data.fingerprint})
    Record(known, options.steps, {}, {} if data is None else _song_marks(data)).compare(folder, whole=False)


def _fixed(options: TrainOptions) -> dict[str, Any]:
    """The options that must be the same when a run goes on."""
    values = options.to_json()
    fixed = {name: value for name, value in values.items() if name not in FREE}
    fixed |= {"alpha": options.scale_alpha, "learning_rate": options.rate}
    if options.kind != "lokr":
        fixed.pop("factor")
    return fixed


def make_record(
    options: TrainOptions, variant: str, decoder: DiT, data: Prepared, processes: int, model: str = ""
) -> Record:
    """The record of a run that is about to begin."""
    values, fixed = options.to_json(), _fixed(options)
    base = {"variant": variant, "dataset": data.fingerprint, "base": base_hash(decoder), "processes": processes}
    precision = str(next(decoder.parameters()).dtype).removeprefix("torch.")
    told = {name: values[name] for name in sorted(FREE - {"steps"})}
    return Record(fixed | base | {"precision": precision}, options.steps, told, _song_marks(data), model)


def _song_marks(data: Prepared) -> dict[str, str]:
    return {example.name: song_mark(example)[:_SHORT] for example in data.examples}


def base_hash(decoder: DiT) -> str:
    """A fingerprint of the frozen weights."""
    return weights_mark(decoder)[:_SHORT]


def write_result(folder: Path, result: Result) -> None:
    """result.json in a folder that is to be `final` and has the rest already."""
    values = {
        "file": result.file.name,
        "steps": result.steps,
        "stopped": result.stopped,
        "validation": result.validation,
        "notes": list(result.notes),
        "files": listed(folder, files_in(folder)),
    }
    write_text(folder / RESULT, json.dumps(values, indent=2, ensure_ascii=False))


def read_result(run: Path) -> Result | None:
    """How the run of a folder ended; None where it has not, or its files are gone or have another size than they had.

    A change that keeps the size is found by `damage`, which reads them whole.
    """
    folder = run / FINAL
    try:
        said = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        pair = said["validation"]
        result = Result(
            folder=folder / PEFT,
            file=folder / said["file"],
            steps=int(said["steps"]),
            stopped=bool(said["stopped"]),
            validation=None if pair is None else (float(pair[0]), float(pair[1])),
            notes=tuple(said["notes"]),
        )
        whole = what_differs(folder, said["files"], hashes=False) is None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return result if whole and result.file.is_file() and result.folder.is_dir() else None


def damage(run: Path) -> str:
    """What happened to the result of a run since it was written, a sentence; "" for nothing, or where there is none."""
    folder = run / FINAL
    try:
        files = _files_of(folder)
        wrong = what_differs(folder, files)
    except FileNotFoundError as error:
        wrong = f"{Path(error.filename or FINAL).name} is gone"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        wrong = f"{type(error).__name__}: {error}"
    if not folder.is_dir() or not wrong:
        return ""
    return f"{folder} is not as it was written ({wrong}): it is written again from the last checkpoint."


def keep_foreign(final: Path, draft: Path) -> None:
    """Copy what a user put into `final` into the folder that comes in its place."""
    if not final.is_dir():
        return
    try:
        ours = set(_files_of(final))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ours = set()
    carry_over(final, draft, [name for name in files_in(final) if name not in {*ours, RESULT}])


def _files_of(final: Path) -> dict[str, Any]:
    files = json.loads((final / RESULT).read_text(encoding="utf-8"))["files"]
    return dict(files)


def check_folders(run: Path) -> None:
    """Pass if no file lies where a run needs a folder.

    Raises:
        ValueError: names it.
    """
    for name in ("", PREPARED, FOLDER, FINAL):
        check_folder(run / name)


def check_weights(decoder: DiT) -> None:
    """Pass if the decoder's weights can be trained beside.

    Raises:
        ValueError: names the weight that is quantised or was made inside inference mode.
    """
    for name, weight in decoder.state_dict(keep_vars=True).items():
        plain = isinstance(weight, Tensor) and type(weight.data) is Tensor
        if not plain or weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            kind = str(weight.dtype).removeprefix("torch.") if plain else type(getattr(weight, "data", weight)).__name__
            raise ValueError(
                f"{name} is {kind}, but training needs weights in fp32, bf16 or fp16: a quantised model cannot be "
                "trained on. Load the bf16 file of it"
            )
        if weight.is_inference():
            raise ValueError(f"{name} was made inside torch.inference_mode(): build the decoder outside of it")


def _check_strange(folder: Path) -> None:
    """Pass if a folder without run.json has nothing that a run would write over.

    Raises:
        ValueError: if it has.
    """
    for name in (FOLDER, FINAL):
        path = folder / name
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"{folder}: it has {name} but no {RUN}, so it is another kind of folder, or its {RUN} was deleted. "
                "Choose another name"
            )


def _models(before: Any, now: str) -> str:
    """What both are called, so far as that is known; models of one name may still be others."""
    known = [f"{word} {name}" for word, name in (("the run has", before), ("now", now)) if name]
    return f" ({', '.join(known)})" if known else ""


def _first(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _word(value: Any) -> str:
    return "nothing" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
