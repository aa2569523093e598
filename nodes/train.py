"""TrainLoRA: a style of one's own out of a few songs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..acestep_models.pipelines.encode import ConditionerModels
from ..acestep_models.runtime import Handle
from ..acestep_models.training.checkpoint import FOLDER as CHECKPOINTS
from ..acestep_models.training.conditions import PrepareOptions, prepare
from ..acestep_models.training.data.clip import Dataset
from ..acestep_models.training.job import Result, TrainOptions
from ..acestep_models.training.record import compare_options, read_result
from ..acestep_models.training.trainable import KINDS
from ..acestep_models.training.wish import check_wish
from .host import save_lora
from .host.runtime import HostRuntime
from .host.schema import io, out, report, schema, socket
from .host.stop_training import TRAININGS, BeforeTraining
from .host.training import check_trainable, run_folder, shown_picture, training_device
from .host.training_run import GIB, Outcome, Run, train_here
from .host.training_watch import PICTURE, in_time
from .lora_made import MADE
from .train_inputs import IF_THERE, NEW, PRESET_NAMES, USE, in_words, options_of, preset_line, train_inputs
from .types import Dataset as DatasetType
from .types import Vae, Word
from .widgets import answer, conditioner_input, model_input, one_of, wire

NODE, PREPARED = "TrainLoRA", "prepared"
_LISTS = {"preset": PRESET_NAMES, "kind": tuple(KINDS), "if_there": IF_THERE}


class TrainLoRA(io.ComfyNode):
    """Node "ACEStepTrainLoRA"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Model and songs in; the name of a new LoRA out."""
        return schema(
            node_id="ACEStepTrainLoRA",
            display_name="ACE-Step 1.5 Train LoRA",
            description="Teaches the model a style, a voice or an instrument from a few songs, and puts the result "
            "into ComfyUI's loras folder. It can be stopped at any time without losing what was learned, and goes on "
            "where it was.",
            search_aliases=["finetune", "fine-tune", "dreambooth", "lokr", "train style", "train voice", "training"],
            inputs=[
                model_input(),
                conditioner_input(),
                socket(Vae, "vae", tooltip="From the same Load DiT."),
                socket(DatasetType, "dataset", tooltip="The songs, from Build Dataset or Label Dataset."),
                *train_inputs(),
            ],
            outputs=[
                out(Word, "lora", "Its name in the list of Apply LoRA, to be wired into that, or into a text."),
                out(io.String, "folder", "Where the same lies as a PEFT folder, for other programs."),
                out(io.String, "report", "What was trained on what, and how it went."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: Any = None, preset: Any = None, kind: Any = None, if_there: Any = None) -> Any:
        """A name that is none, or a word that is in no list, is said before anything runs; links arrive as None."""
        given = {"preset": preset, "kind": kind, "if_there": if_there}

        def check() -> None:
            if name is not None:
                save_lora.check_name(name)
            for where, value in given.items():
                if value is not None:
                    one_of(where, value, _LISTS[where])

        return answer(check)

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> str:
        """Run again when its result was deleted, or is to be used and is another one now."""
        return f"{MADE.gone(NODE, values)} {_to_use(values.get('if_there'), values.get('name'))}"

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioner: ConditionerModels,
        vae: Handle[Any],
        dataset: Dataset,
        name: str,
        preset: str,
        kind: str,
        rank: int,
        steps: int,
        learning_rate: float,
        seed: int,
        if_there: str,
        options: TrainOptions | None = None,
    ) -> io.NodeOutput:
        """Prepare the songs, train, and put the result where Apply LoRA finds it."""
        asked = {"preset": preset, "kind": kind, "rank": rank, "steps": steps, "learning_rate": learning_rate}
        said = {"name": name, **asked, "seed": seed, "if_there": if_there}
        folder = run_folder(name, one_of("if_there", if_there, IF_THERE) == NEW)
        if if_there == USE:
            return _used(folder, said)
        if options is not None:
            wire("options", options, TrainOptions, "Training Options")
        plan = options_of(preset, kind, rank, steps, learning_rate, seed, options)
        compare_options(folder, plan, check_trainable(model).variant_name)  # encoding the songs takes minutes
        check_wish(plan, wire("dataset", dataset, Dataset, "Build Dataset"), training_device())
        with TRAININGS.running() as stop:
            learned = any((folder / CHECKPOINTS).glob("step_*"))  # then its next step ends a run that shall stop
            before = HostRuntime() if learned else BeforeTraining(stop)
            data = prepare(before, conditioner, vae, dataset, folder / PREPARED, _wish(plan))
            before.check_cancelled()
            outcome = train_here(Run(model, data, plan, folder, vae), HostRuntime(), stop)
        lines = (preset_line(preset, rank, steps, options is not None), *_lines(outcome, folder, plan))
        return _output(outcome.result, said, outcome.watcher.save_picture(folder), lines)


def _used(folder: Path, said: Mapping[str, Any]) -> io.NodeOutput:
    """What the run in a folder has come to; nothing is trained.

    Raises:
        ValueError: names the folder where no run has ended.
    """
    result, picture = read_result(folder), folder / PICTURE
    if result is None:
        raise ValueError(
            f"if_there: {USE}, but {folder} has no result of a run that ended, or was stopped and kept. Choose resume "
            "to train it, or another name"
        )
    ended = "stopped and kept after" if result.stopped else "finished after"
    done = f"{ended} {_counted(result.steps)}; nothing was trained"
    lines = (f"run: {folder}", done, _validation(result), *result.notes)
    return _output(result, said, picture if picture.is_file() else None, lines)


def _to_use(if_there: Any, name: Any) -> str:
    """Which result lies in the folder of a run that is only used; "" for other runs and linked names."""
    if if_there != USE or not isinstance(name, str):
        return ""
    result = read_result(run_folder(name, False))
    return "none" if result is None else f"{result.steps} {result.file.stat().st_mtime_ns}"


def _wish(options: TrainOptions) -> PrepareOptions:
    """How songs must be prepared for a run."""
    return PrepareOptions(
        hints=options.hint_share > 0,
        duration=options.duration,
        crop_frames=options.crop_frames,
        seed=options.seed,
    )


def _output(result: Result, said: Mapping[str, Any], picture: Path | None, lines: tuple[str, ...]) -> io.NodeOutput:
    """The wires, and the report under the node with the last picture of the loss; `said` is what the widgets say."""
    path = save_lora.copy_lora(result.file, said["name"])
    for made in (path, result.file):  # a run that was deleted is trained anew
        MADE.add(NODE, said, made)
    text = report(f"saved: {save_lora.shown(path)}", *lines)
    shown: dict[str, Any] = {**text, **({"images": [shown_picture(picture)]} if picture else {})}
    return io.NodeOutput(save_lora.entry_name(path), str(result.folder), text["text"][0], ui=shown)


def _lines(outcome: Outcome, folder: Path, options: TrainOptions) -> tuple[str, ...]:
    """How it went."""
    result, watcher = outcome.result, outcome.watcher
    peak = f", at most {watcher.peak_bytes / GIB:.1f} GiB used" if watcher.peak_bytes else ""
    memory = tuple(line + peak for line in outcome.lines[:1])
    return (
        f"run: {folder}",
        f"{options.kind}, rank {options.rank}, {in_words(options.targets)}",
        f"{options.optimizer}, learning rate {options.rate:g}",
        _steps(result, outcome, options),
        _validation(result),
        *memory,
        *outcome.lines[1:],
        *dict.fromkeys((*watcher.told, *result.notes)),
    )


def _steps(result: Result, outcome: Outcome, options: TrainOptions) -> str:
    """ "1000 steps, 0.62 s a step, 10 min in all", or how far it came before it was stopped.

    Where it went on from earlier ones, the times are of this session's steps, and it says how many those are.
    """
    watcher, done = outcome.watcher, len(outcome.watcher.session)
    if not done:
        return f"finished before, after {_counted(result.steps)}; nothing was trained"
    here = f"{_counted(done)} of them now, " if done < result.steps else ""
    stopped = f"stopped after {result.steps} of {_counted(options.steps)}; what was learned is kept"
    said = stopped if result.stopped else _counted(result.steps)
    seconds = watcher.seconds
    return f"{said}, {here}{seconds / done:.2f} s a step, {in_time(seconds)} in all"


def _counted(steps: int) -> str:
    return f"{steps} step" + ("s" if steps != 1 else "")


def _validation(result: Result) -> str:
    if result.validation is None:
        return ""
    first, last = result.validation
    return f"validation loss: {first:.4f} before, {last:.4f} after"
