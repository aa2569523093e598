"""The real vocabulary gives the same ids from each place where a tokenizer may lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import processors

END, NEWLINE = 151643, 198
KEY = "tokenizer.json"
PLACES = ("beside the weights", "beside the weights, appending", "in the metadata", "ComfyUI's own")


@pytest.fixture(scope="module")
def real(pack, core):
    """Text of the real tokenizer.json, as the published folders have it and with a post-processor that appends."""
    text = core("qwen3.tokenizer").Tokenizer.from_qwen_folder(pack("host.folders").host_tokenizer()).to_json()
    appending = RustTokenizer.from_str(text)
    appending.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", END)]
    )
    assert appending.encode("a").ids[-1] == END
    return SimpleNamespace(plain=text, appending=appending.to_str())


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory, tiny_2b_diffusers):
    """diffusers(text) is the tiny pipeline's folder with `text` as its tokenizer."""

    def make(text):
        folder = tmp_path_factory.mktemp("real") / "pipeline"
        shutil.copytree(tiny_2b_diffusers.model, folder, ignore=shutil.ignore_patterns("tokenizer"))
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "tokenizer.json").write_text(text, encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="module")
def split(tmp_path_factory, tiny_2b_split):
    """split(text) is the tiny text encoder with `text` in its metadata, or without a tokenizer."""

    def make(text):
        source, target = tiny_2b_split.text_encoder, tmp_path_factory.mktemp("real") / "text_encoder.safetensors"
        with safe_open(source, framework="pt") as file:
            metadata = {key: value for key, value in file.metadata().items() if key != KEY}
        save_file(load_file(source), target, {**metadata, **({} if text is None else {KEY: text})})
        return target

    return make


@pytest.fixture(scope="module", params=PLACES)
def tokenizer(request, pack, core, real, diffusers, split):
    """The tokenizer that LoadDiT takes from one of the places."""
    made, kind = {
        "beside the weights": (lambda: diffusers(real.plain), Path),
        "beside the weights, appending": (lambda: diffusers(real.appending), Path),
        "in the metadata": (lambda: split(real.plain), str),
        "ComfyUI's own": (lambda: split(None), type(None)),
    }[request.param]
    checkpoint = core("loading.formats").probe(made())
    assert isinstance(checkpoint.tokenizer_source(), kind)
    return pack("host.loader").open_tokenizer(checkpoint)


def test_prompts_end_as_in_training(core, tokenizer):
    prompts = core("prompts")
    song = core("blueprint").Blueprint(caption="calm piano", lyrics="[Verse]\nla la", bpm=120, seconds=30.0)
    caption = tokenizer.encode_prompt(prompts.caption_prompt(song, 30.0))
    lyrics = tokenizer.encode_prompt(prompts.lyric_prompt(song))
    assert caption[-3:] == [END, NEWLINE, END] and caption[:-3].count(END) == 0
    assert lyrics[-2:] == [END, END] and lyrics[:-2].count(END) == 0
    assert tokenizer.size == 151669


def test_every_place_gives_the_ids_of_the_host(core, tokenizer, pack):
    host = core("qwen3.tokenizer").Tokenizer.from_qwen_folder(pack("host.folders").host_tokenizer())
    texts = ("hello world", "Ünïcödé 12,345 日本語 \n\n[Chorus]", json.dumps({"a": 1}))
    assert [tokenizer.encode(text) for text in texts] == [host.encode(text) for text in texts]
