"""A recognised checkpoint: which parts it has, where their tensors lie, and what their configurations are."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dit.config import DiTConfig
from ..qwen3.model import Qwen3Config
from ..units import LATENT_CHANNELS
from ..vae.config import OobleckConfig
from .blocks import BLOCKS
from .files import Entry, Files, is_standard_name
from .gguf_tokenizer import tokenizer_json
from .header import Shape
from .keymaps import DIT_PARTS, canonical
from .shapes import dit_config, oobleck_config, qwen3_config
from .tensors import PLAIN, read_tensor

Config = DiTConfig | OobleckConfig | Qwen3Config

DTYPES = {
    **PLAIN,
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,  # with a scale beside it
    **dict.fromkeys(BLOCKS, torch.uint8),
}
PACKED = ("F8_E4M3", "I8", *BLOCKS)
TOKENIZER_KEY = "tokenizer.json"  # our own key in the metadata of a file: the text of its tokenizer
SILENCE_KEY = "silence_latent"
SILENCE_FILE = "silence_latent.pt"
VARIANT_FIELDS = ("is_turbo", "model_version")


@dataclass(frozen=True, eq=False)
class Part:
    """The tensors of one part under our raw names: as the module has them, except that weight norm is unfolded.

    `scales` are what a layer's fp8 weight is to be multiplied by, under the layer's name; a layer without has 1.
    """

    entries: Mapping[str, Entry]
    files: Files
    scales: Mapping[str, Entry] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Our name -> shape as the module wants it: weight norm folded, snakes [1, C, 1]."""
        return dict(module_shape(key, entry.shape) for key, entry in self.entries.items() if not is_gain(key))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `probe` found behind a path.

    Attributes:
        path: the file or folder that was asked for.
        layout: "split" (ComfyUI's single files, planners), "aio" (ComfyUI's all in one), "upstream" (the folder of a
            model as it was published) or "diffusers" (a folder of components).
        given: raw config JSON of the decoder, or of the one part there is; may be empty.
    """

    path: Path
    layout: str
    sources: Mapping[str, Part]
    given: Mapping[str, Any]

    @property
    def parts(self) -> frozenset[str]:
        """Some of decoder, condition, tokenizer, detokenizer, vae, text_encoder, lm."""
        return frozenset(self.sources)

    def shapes(self, part: str) -> dict[str, Shape]:
        """Our name -> shape of every tensor of a part, as its module wants it."""
        return self._source(part).shapes

    def dtypes(self, part: str) -> frozenset[torch.dtype]:
        """In what the tensors of a part are stored."""
        return frozenset(DTYPES[entry.dtype] for entry in self._source(part).entries.values())

    def packed_in_file(self, part: str) -> dict[str, str]:
        """The layers of a part whose weights the file has in eight bits or fewer, and as what."""
        entries = self._source(part).entries
        return {key.removesuffix(".weight"): entry.dtype for key, entry in entries.items() if entry.dtype in PACKED}

    def has_weight_norm(self, part: str) -> bool:
        """Whether weights are stored as length and direction; their product has more digits than either."""
        return any(is_gain(key) for key in self._source(part).entries)

    def config(self, part: str) -> Config:
        """The configuration of the network that a part belongs to; the four parts of the DiT share one.

        Raises:
            ValueError: if the tensors or the config say something that this network cannot be.
        """
        source = self._source(part)
        try:
            if part in DIT_PARTS:
                return dit_config(self._dit_shapes(), self.given)
            if part == "vae":
                return oobleck_config(source.shapes, source.files.given)
            return qwen3_config(source.shapes, source.files.given)
        except KeyError as error:
            raise ValueError(
                f"{source.files.path}: the {part} has no tensor {error}: the file is incomplete. Fetch it again."
            ) from error
        except ValueError as error:
            raise ValueError(f"{source.files.path}: {error}.") from error

    def completed(self, other: Checkpoint) -> Checkpoint:
        """This decoder with what only `other`, the whole model it was made from, says of its configuration.

        Which variant `other` is, is its own affair: a decoder is saved because it was changed.

        Raises:
            ValueError: if the two decoders differ in size.
        """
        mine, whole = self.config("decoder"), other.config("decoder")
        if self.shapes("decoder") != other.shapes("decoder"):
            raise ValueError(
                f"{self.path.name} is a decoder of {_size(mine)}, but {other.path.name} belongs to one of "
                f"{_size(whole)}. Choose the model that the decoder was made from"
            )
        given = {name: value for name, value in other.given.items() if name not in VARIANT_FIELDS}
        return replace(self, given={**given, **self.given})

    def tokenizer_source(self, part: str | None = None) -> str | Path | None:
        """Where the tokenizer is: JSON text, the path of a tokenizer.json, a folder with vocab.json, or nowhere.

        It is looked for in the file itself, and beside files that lie in a model folder. `part` says whose, where a
        file holds text encoder and planner; the text encoder's is the usual one.

        Raises:
            ValueError: if that of a GGUF file is damaged.
        """
        for name in ("text_encoder", "lm") if part is None else (part,):
            if name in self.sources:
                files = self.sources[name].files
                inside = tokenizer_json(files.path) if files.headers[0].starts else files.metadata.get(TOKENIZER_KEY)
                return inside or _tokenizer_beside(files.path)
        return None

    def silence_tensor(self) -> Tensor | None:
        """The stored latents of silence [1, 64, F] in float32; None where the layout does not carry them.

        Raises:
            ValueError: if they have another shape.
        """
        source = next((self.sources[name] for name in ("condition", "decoder") if name in self.sources), None)
        if source is None:
            return None
        entry = source.files.entries.get(SILENCE_KEY)
        if entry is not None:
            tensor = read_tensor(entry)
            if entry.start is not None and tensor.ndim == 2:  # [frames, 64] in a GGUF file
                tensor = tensor.mT[None]
            turned = self.layout == "diffusers" and tensor.ndim == 3
            return _silence(source.files.path, tensor.mT if turned else tensor)
        beside = source.files.path.parent / SILENCE_FILE
        if is_standard_name(source.files.path) and beside.is_file():
            return _silence(beside, read_pickle(beside))
        return None

    def _source(self, part: str) -> Part:
        if part not in self.sources:
            raise ValueError(
                f"{self.path}: has no {part}, only {', '.join(sorted(self.sources))}. Choose a file that has one."
            )
        return self.sources[part]

    def _dit_shapes(self) -> dict[str, Shape]:
        present = [part for part in DIT_PARTS if part in self.sources]
        return {canonical(part, key): shape for part in present for key, shape in self.shapes(part).items()}


def is_gain(key: str) -> bool:
    """Whether a raw key is the length half of a weight norm, which the folded weight absorbs."""
    return key.endswith(".weight_g")


def module_shape(key: str, shape: Shape) -> tuple[str, Shape]:
    """Name and shape in the module of a raw tensor that is no gain."""
    if key.endswith((".alpha", ".beta")) and len(shape) == 1:  # ComfyUI's snakes
        return key, (1, shape[0], 1)
    return key.removesuffix("_v"), shape


def read_pickle(path: Path) -> Any:
    """What torch saved in a .pt file, as long as that is tensors and plain values; code in it is never run.

    Raises:
        ValueError: for anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: this pickle is damaged, or holds more than tensors; such files can run code and are not read "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). Fetch it again from its "
            "publisher, or delete it: silence is then made by the VAE."
        ) from error


def _size(config: Any) -> str:
    return f"width {config.hidden_size} with {config.num_hidden_layers} layers, reading width " + str(
        config.encoder_hidden_size
    )


def _tokenizer_beside(path: Path) -> Path | None:
    if not is_standard_name(path):
        return None
    folders = (path.parent, path.parent.parent / "tokenizer")
    files = [folder / "tokenizer.json" for folder in folders] + [folder / "vocab.json" for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    return found.parent if found is not None and found.name == "vocab.json" else found


def _silence(path: Path, tensor: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{path}: holds {type(tensor).__name__}, not the latents of silence. Fetch it again.")
    if tensor.ndim != 3 or tensor.shape[:2] != (1, LATENT_CHANNELS):
        raise ValueError(
            f"{path}: the latents of silence have the shape {list(tensor.shape)}, expected "
            f"[1, {LATENT_CHANNELS}, frames]. Delete them (they are then made by the VAE) or fetch them again."
        )
    return tensor.float().contiguous()
