"""One model in every layout, and as a decoder of its own, makes the same song to the last bit."""

from __future__ import annotations

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.loading import probe
from acestep_models.pipelines.generate import generate
from acestep_models.pipelines.load import open_models
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.schedule import SamplingOptions

pytestmark = pytest.mark.slow  # eight sets are written
LAYOUTS = ("split", "diffusers", "upstream", "aio")
FAMILIES = ("2b", "xl")
SONG = Blueprint(caption="warm jazz", lyrics="[Verse]\n" + "one two\n" * 9, bpm=90, seconds=10.2)


@pytest.fixture(scope="module")
def sets(tmp_path_factory, write_tiny):
    """(family, layout) -> one set of weights of one seed."""
    return {
        (family, layout): write_tiny(tmp_path_factory.mktemp(f"{family}_{layout}"), layout=layout, family=family)
        for family in FAMILIES
        for layout in LAYOUTS
    }


def opened(found, model=None):
    """The models of a set, their weights in memory of their own.

    A file's weights are mapped where they lie, and some of torch's kernels add up in another order for another
    address: that alone would change the last bits.
    """
    conditioner = None if model is None else found.model
    models = open_models(model or found.model, found.text_encoder, found.vae, "turbo", conditioner=conditioner)
    readers = models.conditioner
    for handle in (models.decoder.handle, readers.text, readers.condition, readers.code_tokenizer, readers.detokenizer):
        copies = {key: value.clone() for key, value in handle.module.state_dict().items()}
        handle.module.load_state_dict(copies, assign=True)
    return models


def latents(models):
    return generate(PlainRuntime(), models.decoder, models.conditioner, [SONG], SamplingOptions(), 3).latents


@pytest.fixture(scope="module")
def songs(sets):
    return {key: latents(opened(found)) for key, found in sets.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_layout_makes_the_same_song(songs, family, layout):
    assert torch.equal(songs[family, layout], songs[family, "split"])
    assert songs[family, layout].shape == (1, 64, 255) and float(songs[family, layout].std()) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_probe_knows_the_layout(sets, family, layout):
    assert probe(sets[family, layout].model).layout == layout


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_decoder_with_its_conditioner_makes_the_same_song(sets, songs, tmp_path, family, layout):
    from acestep_models.tiny import write_saved_decoder

    path = tmp_path / "saved.safetensors"
    write_saved_decoder(path, family=family)
    assert probe(path).parts == {"decoder"} and probe(path).given == {}
    assert torch.equal(latents(opened(sets[family, layout], model=path)), songs[family, "split"])


def test_a_saved_decoder_of_xl_does_not_go_with_2b(sets, tmp_path):
    from acestep_models.tiny import write_saved_decoder

    path = tmp_path / "saved.safetensors"
    write_saved_decoder(path, family="xl")
    with pytest.raises(ValueError, match="decoder of width 96 with 4 layers.* belongs to one of width 64 with 4"):
        opened(sets["2b", "split"], model=path)


def test_seeds_differ(sets, songs, tmp_path, write_tiny):
    other = write_tiny(tmp_path, layout="aio", seed=1)
    assert not torch.equal(latents(opened(other)), songs["2b", "aio"])
