"""Which models can be fetched, from where, into which of ComfyUI's folders, and how large they are: one row each.

Sources are tried in order. ComfyUI's split files come first: one file, where every other node pack finds it too, and in
bf16 (upstream's XL is four shards in fp32, about 20 GB). The authors' own repositories come second, and first for what
only they have. Sizes are parameters times two bytes (spec/audio.md §1.6, spec/planner.md §1.1) unless the table says
`exact`; the hub is asked for the true ones before anything is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass

COMFY = "Comfy-Org/ace_step_1.5_ComfyUI_files"
MAIN = (
    "ACE-Step/Ace-Step1.5"  # of the authors' repositories the only one with VAE and text encoder (spec/audio.md §1.2)
)
BF16_BYTES = 2

DIFFUSION_MODELS, TEXT_ENCODERS, VAES = "diffusion_models", "text_encoders", "vae"
# What is taken from a folder of the authors: never their Python code.
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "config.json")
DECODER_FILES = (*WEIGHTS, "silence_latent.pt")
VAE_FILES = ("diffusion_pytorch_model.safetensors", "config.json")
TEXT_FILES = (*WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")

# Parameters (spec/audio.md §1.6). The whole model is decoder, condition encoder, tokenizer and detokenizer.
WHOLE = {"2B": 2_393_872_518, "XL": 4_987_310_726}
DECODER = {"2B": 1_575_458_880, "XL": 4_168_897_088}
TEXT_ENCODER_PARAMETERS = 595_776_512  # Qwen3-Embedding-0.6B: 440.5 M and 151669 rows of 1024
VAE_PARAMETERS = 168_695_426


@dataclass(frozen=True)
class Source:
    """One place to get a part from: a file of a repository, or the `patterns` in a folder of it.

    `target` is the name below `category` in ComfyUI's models folder: a file or a folder, as `path` is. The repository's
    root is the folder "".
    """

    repo: str
    path: str
    category: str
    target: str
    patterns: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether several files come into a folder of their own."""
        return bool(self.patterns)


@dataclass(frozen=True)
class Part:
    """What is missing or not: `bytes` is what it takes on disk, `exact` whether that is known to the byte."""

    name: str
    bytes: int
    sources: tuple[Source, ...]
    exact: bool = False


@dataclass(frozen=True)
class ZooModel:
    """A row of the table. `variant` is a row of `tasks.VARIANTS` for decoders, None for planners."""

    name: str
    size: str
    variant: str | None
    part: Part

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything that it takes to run the model."""
        return (self.part, TEXT_ENCODER, VAE) if self.variant else (self.part,)

    @property
    def memory_bytes(self) -> int:
        """What the network that runs longest takes in bf16, without room for the song."""
        return BF16_BYTES * DECODER[self.size] if self.variant else self.part.bytes


TEXT_ENCODER = Part(
    "text_encoder",
    BF16_BYTES * TEXT_ENCODER_PARAMETERS,
    (
        Source(
            COMFY, "split_files/text_encoders/qwen_0.6b_ace15.safetensors", TEXT_ENCODERS, "qwen_0.6b_ace15.safetensors"
        ),
        Source(MAIN, "Qwen3-Embedding-0.6B", TEXT_ENCODERS, "Qwen3-Embedding-0.6B", TEXT_FILES),
    ),
)
VAE = Part(
    "vae",
    BF16_BYTES * VAE_PARAMETERS,
    (
        Source(COMFY, "split_files/vae/ace_1.5_vae.safetensors", VAES, "ace_1.5_vae.safetensors"),
        Source(MAIN, "vae", VAES, "Ace-Step1.5-vae", VAE_FILES),
    ),
)


def _split(category: str, file: str) -> Source:
    return Source(COMFY, f"split_files/{category}/{file}", category, file)


def _upstream(name: str, category: str, patterns: tuple[str, ...], repo: str | None = None) -> Source:
    """A model of the authors: the root of a repository of its own, or its folder in the main one."""
    return Source(repo or f"ACE-Step/{name}", name if repo else "", category, name, patterns)


def _decoder(variant: str, size: str, file: str | None, repo: str | None = None) -> ZooModel:
    name = f"acestep-v15-{'xl-' if size == 'XL' else ''}{variant}"
    split = (_split(DIFFUSION_MODELS, file),) if file else ()
    sources = (*split, _upstream(name, DIFFUSION_MODELS, DECODER_FILES, repo))
    return ZooModel(name, size, variant, Part("decoder", BF16_BYTES * WHOLE[size], sources))


def _planner(size: str, weights: int, file: str | None, repo: str | None = None, exact: bool = False) -> ZooModel:
    name = f"acestep-5Hz-lm-{size}"
    split = (_split(TEXT_ENCODERS, file),) if file else ()
    sources = (*split, _upstream(name, TEXT_ENCODERS, WEIGHTS, repo))
    return ZooModel(name, size, None, Part("lm", weights, sources, exact))


ZOO: dict[str, ZooModel] = {
    model.name: model
    for model in (
        _decoder("turbo", "2B", "acestep_v1.5_turbo.safetensors", MAIN),
        _decoder("turbo-shift1", "2B", None),
        _decoder("turbo-shift3", "2B", None),
        _decoder("turbo-continuous", "2B", None),
        _decoder("base", "2B", "acestep_v1.5_base.safetensors"),
        _decoder("sft", "2B", "acestep_v1.5_sft.safetensors"),
        _decoder("turbo", "XL", "acestep_v1.5_xl_turbo_bf16.safetensors"),
        _decoder("base", "XL", "acestep_v1.5_xl_base_bf16.safetensors"),
        _decoder("sft", "XL", "acestep_v1.5_xl_sft_bf16.safetensors"),
        # ComfyUI has no file of the 0.6B planner: it takes every 1024 wide Qwen3 for the text encoder.
        _planner("0.6B", 1_325_804_024, None, exact=True),
        _planner("1.7B", 3_708_521_528, "qwen_1.7b_ace15.safetensors", MAIN),
        _planner("4B", 8_379_108_352, "qwen_4b_ace15.safetensors"),
    )
}


def zoo_model(name: str) -> ZooModel:
    """The row of ZOO.

    Raises:
        ValueError: for a name that is not in the table.
    """
    if name not in ZOO:
        raise ValueError(f"model: expected one of {', '.join(ZOO)}, got {name!r}")
    return ZOO[name]


def readable(size: int) -> str:
    """Bytes as people say them: 4.8 GB, 337 MB, 2 kB."""
    for unit, amount in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= amount:
            return f"{size / amount:.1f} {unit}" if unit == "GB" else f"{size / amount:.0f} {unit}"
    return f"{size} bytes"
