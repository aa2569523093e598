"""Tensor manifests of upstream, FL and Windows (spec/lora.md §1.4, §6 test 21)."""

from __future__ import annotations

import json

import pytest
import torch

from acestep_models.training.manifest import read_manifest
from acestep_models.training.tensors import read_stored


def upstream(path, frames=47, valid=5, padded=9, **more):
    """A .pt as upstream writes it: bfloat16, padded conditions, no null token."""
    random = torch.Generator().manual_seed(frames)
    values = {
        "target_latents": torch.randn(frames, 64, generator=random).bfloat16(),
        "attention_mask": torch.ones(frames),
        "encoder_hidden_states": torch.randn(padded, 16, generator=random).bfloat16(),
        "encoder_attention_mask": (torch.arange(padded) < valid).to(torch.int64),
        "context_latents": torch.ones(frames, 128),
        "metadata": {
            "filename": f"{path.stem}.mp3",
            "caption": "rock",
            "lyrics": "[Instrumental]",
            "bpm": 0,
            "keyscale": "N/A",
            "timesignature": "",
            "duration": 999,
            "language": "klingon",
            "custom_tag": "zyx",
        },
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(values, path)
    return values


def manifest(folder, samples, **metadata):
    value = {"metadata": metadata, "samples": samples, "num_samples": len(samples)}
    (folder / "manifest.json").write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    return folder / "manifest.json"


@pytest.mark.parametrize(
    "written",
    [
        "abc.pt",
        "./datasets/preprocessed/abc.pt",
        "/home/somebody/tensors/abc.pt",
        "datasets\\preprocessed\\abc.pt",
        "C:\\Users\\me\\tensors\\abc.pt",
        "..\\..\\abc.pt",
        {"id": "abc", "filename": "abc.pt", "audio_path": "C:\\x\\abc.mp3"},
        {"path": "tensors/abc.pt"},
    ],
)
def test_paths_of_other_trainers(tmp_path, written):
    upstream(tmp_path / "abc.pt")
    dataset = read_manifest(manifest(tmp_path, [written], name="theirs", custom_tag="zyx", tag_position="replace"))
    (clip,) = dataset.clips
    assert clip.tensors == tmp_path / "abc.pt" and (clip.name, clip.seconds) == ("abc.mp3", 1.6)
    assert (dataset.name, dataset.tag, dataset.tag_position, dataset.genre_ratio) == ("theirs", "zyx", "replace", 0)
    assert (clip.blueprint.caption, clip.blueprint.lyrics) == ("rock", "[Instrumental]")
    assert clip.blueprint.bpm is clip.blueprint.key is clip.blueprint.language is None and clip.labelled


def test_padding_and_odd_frames_go(tmp_path):
    """47 frames lose seven; of nine tokens five are valid; bfloat16 becomes float32 without another change."""
    values = upstream(tmp_path / "abc.pt")
    with torch.inference_mode():
        stored = read_stored(tmp_path / "abc.pt", "abc", 2)
    example = stored.example
    assert torch.equal(example.latents, values["target_latents"][:40].float()) and example.repeat == 2
    assert torch.equal(example.plain, values["encoder_hidden_states"][:5].float())
    assert example.hinted is example.hints is stored.null is None and not example.plain.is_inference()


def test_one_name_in_two_folders_is_two_songs(tmp_path):
    for folder in ("one", "two"):
        upstream(tmp_path / folder / "abc.pt")
    dataset = read_manifest(manifest(tmp_path, ["one/abc.pt", "two\\abc.pt", "one/abc.pt"]))
    assert [clip.tensors.parent.name for clip in dataset.clips] == ["one", "two"]
    assert [clip.name for clip in dataset.clips] == ["abc.mp3", "abc.pt"]
    assert dataset.notes == ("left out: one/abc.pt: named twice, taken once",)


def test_the_good_ones_are_kept(tmp_path):
    upstream(tmp_path / "good.pt")
    upstream(tmp_path / "wide.pt", target_latents=torch.zeros(40, 8))
    upstream(tmp_path / "nan.pt", encoder_hidden_states=torch.full((9, 16), torch.nan))
    upstream(tmp_path / "short.pt", frames=9)
    upstream(tmp_path / "mask.pt", encoder_attention_mask=torch.zeros(9))
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1], tmp_path / "list.pt")
    names = ["gone.pt", "wide.pt", "nan.pt", "short.pt", "mask.pt", "text.pt", "list.pt", "good.pt", 7, {"id": "x"}]
    dataset = read_manifest(manifest(tmp_path, names))
    assert [clip.name for clip in dataset.clips] == ["good.mp3"] and len(dataset.notes) == 9
    words = [
        "not there",
        "[40, 8]",
        "NaN",
        "10 frames",
        "0 set of 9",
        "cannot be read",
        "got list",
        "no file: 7",
        "'x'",
    ]
    assert all(word in note for word, note in zip(words, dataset.notes, strict=True))


def test_nothing_runs_out_of_a_file(tmp_path):
    """Only tensors and plain values are read: a pickle that would call something is refused."""

    class Evil:
        def __reduce__(self):
            return (print, ("called",))

    torch.save({"target_latents": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt: cannot be read as prepared tensors \(UnpicklingError\)"):
        read_stored(tmp_path / "evil.pt", "evil")


@pytest.mark.parametrize("text", ["", "[]", '{"samples": 3}', "\xff"])
def test_what_is_no_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"manifest\.json: (cannot be read as|expected) a manifest"):
        read_manifest(tmp_path)


def test_a_manifest_without_songs(tmp_path):
    with pytest.raises(ValueError, match="no song of it can be read. left out: gone.pt: is not there"):
        read_manifest(manifest(tmp_path, ["gone.pt"]))
