"""Fetches models: first a plan with true sizes, then the files, each checked before it gets its name.

Nothing here runs unless it is called, and whoever calls it has been told to by the user. What arrives lies in a hidden
folder beside ComfyUI's model folders until size and hash are right; then it is moved into place in one step. Cancelled
or cut, the partial file stays there, and the next attempt goes on with it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ACEStepError
from ..runtime import Runtime
from .hub_process import HubError, ask
from .zoo import ZOO, Part, Source, readable, zoo_model

__all__ = ["ZOO", "DownloadPlan", "HubError", "RemoteFile", "fetch", "plan"]

STAGING = ".acestep-download"
MIB = 1 << 20
SPARE = 0.01  # free disk that must stay beyond the files, as a share of them
HASH_BYTES = 16 * MIB


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, at one commit, and where it goes; None for what the hub does not say."""

    repo: str
    path: str
    commit: str
    target: Path
    bytes: int | None
    staging: Path
    sha256: str | None = None
    sha1: str | None = None  # of git: over "blob <size>\0" and the content

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.repo}/{self.path}"

    @property
    def part(self) -> Path:
        """Where it grows, under a name that no list of models takes."""
        return self.staging / f"{self.target.name}.{(self.sha256 or self.sha1 or self.commit)[:16]}.part"


@dataclass(frozen=True)
class DownloadPlan:
    """What is missing, in groups that become visible together (the files of a folder do)."""

    groups: tuple[tuple[RemoteFile, ...], ...]

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """All of them."""
        return tuple(file for group in self.groups for file in group)

    @property
    def total_bytes(self) -> int:
        """What they take on disk, as far as the hub says."""
        return sum(file.bytes or 0 for file in self.files)

    def describe(self) -> str:
        """Sizes and sources in one line."""
        listed = ", ".join(f"{file.target.name} {readable(file.bytes or 0)}" for file in self.files)
        repos = ", ".join(dict.fromkeys(file.repo for file in self.files))
        return f"{readable(self.total_bytes)} from {repos} ({listed})"


def plan(name: str, folders: Mapping[str, Path], runtime: Runtime, present: Collection[str] = ()) -> DownloadPlan:
    """What a model of the zoo lacks beside the parts that are `present`; asks the hub for the true sizes.

    Args:
        folders: ComfyUI's category ("diffusion_models", "text_encoders", "vae") -> folder to put files into.

    Raises:
        ValueError: for a name that is not in ZOO.
        ACEStepError: where the hub cannot be asked, or has none of the sources.
    """
    wanted = [part for part in zoo_model(name).parts if part.name not in present]
    known: dict[str, list[dict[str, Any]]] = {}
    return DownloadPlan(tuple(_locate(part, folders, runtime, known) for part in wanted))


def _locate(
    part: Part, folders: Mapping[str, Path], runtime: Runtime, known: dict[str, list[dict[str, Any]]]
) -> tuple[RemoteFile, ...]:
    """The files of the first source that has the part."""
    problems = []
    for source in part.sources:
        try:
            if source.repo not in known:
                request = {"task": "list", "repo": source.repo}
                known[source.repo] = ask(request, source.repo, runtime.check_cancelled)
        except HubError as error:
            if not error.missing:
                raise
            problems.append(str(error))
            continue
        if found := _pick(source, known[source.repo], folders[source.category]):
            return found
        problems.append(f"{source.repo} has no {source.path or ', '.join(source.patterns)}")
    raise HubError(f"{part.name}: no source has it: " + "; ".join(problems), missing=True)


def _pick(source: Source, listing: list[dict[str, Any]], root: Path) -> tuple[RemoteFile, ...]:
    """The source's files in a listing, weights last; empty where something that must be there is not."""
    staging = _staging(root) / source.target
    chosen: list[RemoteFile] = []
    for entry in listing:
        inside = _below(source, entry["path"])
        if inside is None:
            continue
        target = root / source.target / inside if source.is_folder else root / source.target
        hashes = {"sha256": entry["sha256"], "sha1": entry["sha1"]}
        chosen.append(
            RemoteFile(source.repo, entry["path"], entry["commit"], target, entry["bytes"], staging, **hashes)
        )
    complete = any(file.path.endswith(".safetensors") for file in chosen)
    return tuple(sorted(chosen, key=_order)) if complete else ()


def _below(source: Source, path: str) -> str | None:
    """The file's name in the source's folder; None for what is not wanted. A name with a folder in it never is."""
    if not source.is_folder:
        return "" if path == source.path else None
    folder, _, name = path.rpartition("/")
    wanted = folder == source.path and "\\" not in name and name not in ("", ".", "..")
    return name if wanted and any(fnmatch.fnmatchcase(name, pattern) for pattern in source.patterns) else None


def _order(file: RemoteFile) -> tuple[int, str]:
    """Small files, then weights, then their index: a folder looks like a model only once it is one."""
    kinds = (".safetensors", ".index.json")
    return next((rank for rank, ending in enumerate(kinds, 1) if file.path.endswith(ending)), 0), file.path


def _staging(root: Path) -> Path:
    """A hidden folder on the disk of `root`: beside it, where no model list looks, else inside it."""
    root = root.resolve()
    beside = root.parent
    try:
        fits = os.access(beside, os.W_OK) and beside.stat().st_dev == (root if root.exists() else beside).stat().st_dev
    except OSError:
        fits = False
    return (beside if fits else root) / STAGING


def fetch(wanted: DownloadPlan, runtime: Runtime) -> tuple[Path, ...]:
    """Fetch everything of a plan; the new paths.

    Progress is told in MiB. A cancel leaves the partial file in the staging folder, for the next attempt.

    Raises:
        ACEStepError: for a full disk, a network or hub that fails, or a file with another size or hash than the hub
            promised; says what to do.
    """
    _check_places(wanted, runtime)
    _check_room(wanted)
    done = 0
    for group in wanted.groups:
        for file in group:
            _fetch_staged(file, runtime, done, wanted.total_bytes)
            done += file.bytes or 0
        for file in group:
            _install(file)
        staging = group[0].staging
        shutil.rmtree(staging, ignore_errors=True)
        _remove_if_empty(staging.parent)
    return tuple(file.target for file in wanted.files)


def _fetch_staged(file: RemoteFile, runtime: Runtime, before: int, total: int) -> None:
    """The file in its staging folder, whole and checked; `before` bytes of `total` are there already."""

    def watch() -> None:
        runtime.check_cancelled()
        runtime.progress(min(before + _arrived(file), total) // MIB, max(1, total // MIB))

    request = {"task": "download", "repo": file.repo, "path": file.path, "commit": file.commit, "bytes": file.bytes}
    try:
        file.staging.mkdir(parents=True, exist_ok=True)
        ask({**request, "part": str(file.part)}, file.label, watch)
        _check_content(file, runtime)
    except OSError as error:
        raise ACEStepError(
            f"{file.label}: {file.staging} cannot be written ({error}). Check its disk and permissions, then run again."
        ) from error
    watch()


def _arrived(file: RemoteFile) -> int:
    """Bytes of the file in its staging folder."""
    return file.part.stat().st_size if file.part.is_file() else 0


def _check_content(file: RemoteFile, runtime: Runtime) -> None:
    """Remove the partial file and complain, unless it has the promised size and hash."""
    got = file.part.stat().st_size
    problem = None
    if file.bytes is not None and got != file.bytes:
        problem = f"{got:,} bytes arrived, the hub promised {file.bytes:,}"
    elif (promised := file.sha256 or file.sha1) and (digest := _digest(file, file.part, runtime)) != promised:
        problem = f"its hash is {digest}, the hub promised {promised}"
    if problem:
        file.part.unlink()
        raise ACEStepError(
            f"{file.label}: {problem}. It was thrown away. Run again; if it stays, the mirror, a proxy or the disk "
            "changes files: unset HF_ENDPOINT or fetch it by hand."
        )


def _digest(file: RemoteFile, path: Path, runtime: Runtime) -> str:
    """The hash of what lies at `path`, of the kind the hub named for the file."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as content:
        while chunk := content.read(HASH_BYTES):
            runtime.check_cancelled()
            digest.update(chunk)
    return digest.hexdigest()


def _check_places(wanted: DownloadPlan, runtime: Runtime) -> None:
    """Refuse to replace a file that is there already, unless it is the very one (left by a run that was cut off)."""
    for file in wanted.files:
        promised = file.sha256 or file.sha1
        if file.target.exists() and not (promised and _digest(file, file.target, runtime) == promised):
            raise ValueError(
                f"{file.target}: there is a file already, and it is not what {file.repo} publishes (quantised, changed "
                "or damaged), so nothing was fetched. Move it away, or choose the files to use by hand"
            )


def _install(file: RemoteFile) -> None:
    try:
        file.target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file.part, file.target)
    except OSError as error:
        raise ACEStepError(
            f"{file.target}: cannot be written ({error}). The file is complete in {file.part}: check permissions "
            "and whether a program holds the old file, then run again."
        ) from error


def _check_room(wanted: DownloadPlan) -> None:
    """Refuse before anything is fetched, where the disk cannot hold what is still to come and one percent more."""
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for file in wanted.files:
        place = next(path for path in (file.staging, *file.staging.parents) if path.exists())
        disk = place.stat().st_dev
        places[disk] = place
        needed[disk] = needed.get(disk, 0) + max(0, (file.bytes or 0) - _arrived(file))
    for disk, size in needed.items():
        free, least = shutil.disk_usage(places[disk]).free, int(size * (1 + SPARE))
        if free < least:
            raise ACEStepError(
                f"{places[disk]}: {readable(free)} free, the download needs {readable(least)}. Make room, or let "
                "ComfyUI keep models on a larger disk (extra_model_paths.yaml)."
            )


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # another download is waiting there
