"""When LoadDiT loads again: its files, and those that auto may choose."""

from __future__ import annotations

import shutil

import pytest
import torch

FOLDERS = ("diffusion_models", "text_encoders", "vae")
CATEGORIES = {"model": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}


@pytest.fixture
def fingerprint(pack, tiny_2b_split, model_folders, tmp_path):
    """fingerprint(text_encoder=..., vae=...) of LoadDiT over copies of the tiny files in `tmp_path`."""
    for folder, file in zip(FOLDERS, (tiny_2b_split.model, tiny_2b_split.text_encoder, tiny_2b_split.vae), strict=True):
        (tmp_path / folder).mkdir()
        shutil.copy(file, tmp_path / folder / "file.safetensors")

    def ask(text_encoder="auto", vae="auto"):
        model_folders(**{name: tmp_path / name for name in FOLDERS})  # forgets the host's lists
        node = pack("load").LoadDiT
        return node.fingerprint_inputs("file.safetensors", "auto", "auto", text_encoder, vae, "auto", False)

    return ask


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("choice", ["auto", "file.safetensors"])
def test_a_changed_file_loads_again(fingerprint, tmp_path, folder, choice):
    before = fingerprint(choice, choice)
    assert fingerprint(choice, choice) == before
    with (tmp_path / folder / "file.safetensors").open("ab") as file:
        file.write(b"more")
    assert fingerprint(choice, choice) != before


def test_auto_watches_what_it_may_choose_and_a_choice_only_itself(fingerprint, tmp_path):
    auto, chosen = fingerprint(), fingerprint("file.safetensors", "file.safetensors")
    shutil.copy(tmp_path / "vae/file.safetensors", tmp_path / "vae/other.safetensors")
    assert fingerprint() != auto
    assert fingerprint("file.safetensors", "file.safetensors") == chosen


def test_linked_choices_are_not_known_yet_and_load_once(fingerprint, pack, tmp_path):
    before = fingerprint()
    node = pack("load").LoadDiT
    linked = node.fingerprint_inputs(*[None] * 7)
    assert linked == node.fingerprint_inputs(*[None] * 7) != before
    (tmp_path / "diffusion_models" / "file.safetensors").write_bytes(b"changed")
    assert node.fingerprint_inputs(*[None] * 7) != linked


@pytest.fixture(scope="module")
def sets(tmp_path_factory, write_tiny):
    """(layout, family) -> a tiny set; written when first asked for."""
    made = {}

    def get(layout, family="2b"):
        if (layout, family) not in made:
            made[layout, family] = write_tiny(tmp_path_factory.mktemp(layout), layout=layout, family=family)
        return made[layout, family]

    return get


@pytest.fixture
def host(sets, model_folders, tmp_path):
    """host("split", ("aio", "xl"), ...) puts these sets into the host's folders; returns their common root."""

    def install(*which):
        for wanted in which:
            layout, family = (wanted, "2b") if isinstance(wanted, str) else wanted
            found = sets(layout, family)
            root = found.model.parent if layout in ("upstream", "diffusers") else found.model.parents[1]
            target = tmp_path / "diffusion_models" if layout in ("upstream", "diffusers") else tmp_path
            shutil.copytree(root, target, dirs_exist_ok=True)
        for name in FOLDERS:
            (tmp_path / name).mkdir(exist_ok=True)
        use()
        return tmp_path

    def use():
        model_folders(**{name: tmp_path / name for name in (*FOLDERS, "checkpoints")})

    install.again = use
    return install


@pytest.fixture
def save_decoder(host, tmp_path):
    """save_decoder(name, family) writes what ComfyUI's ModelSave would, and shows it to the host."""

    def save(name="saved.safetensors", family="2b"):
        from acestep_models.tiny import write_saved_decoder

        write_saved_decoder(tmp_path / "diffusion_models" / name, family=family)
        host.again()
        return name

    return save


@pytest.fixture
def find(pack):
    return pack("host.sources").find_sources


@pytest.mark.parametrize(("family", "name"), [("2b", "acestep-v15-turbo"), ("xl", "acestep-v15-xl-turbo")])
def test_upstream_brings_the_neighbours_of_its_repository(host, find, pack, family, name):
    root = host(("upstream", family)) / "diffusion_models"
    assert pack("host.folders").model_names() == [name]
    found = find(name)
    assert found.decoder.path == root / name and found.conditioner is found.decoder
    assert (found.text_encoder.path, found.vae.path) == (root / "Qwen3-Embedding-0.6B", root / "vae")


def test_a_model_without_neighbours_takes_those_of_the_main_repository(host, find, pack):
    """XL's repositories hold the decoder only."""
    root = host(("upstream", "xl")) / "diffusion_models"
    (root / "Ace-Step1.5").mkdir()
    for folder in ("vae", "Qwen3-Embedding-0.6B"):
        (root / folder).rename(root / "Ace-Step1.5" / folder)
    found = find("acestep-v15-xl-turbo")
    assert found.vae.path == root / "Ace-Step1.5/vae"
    assert found.text_encoder.path == root / "Ace-Step1.5/Qwen3-Embedding-0.6B"
    shutil.rmtree(root / "Ace-Step1.5/vae")
    with pytest.raises(ValueError, match=r"vae: no 48 kHz VAE in .*put ace_1\.5_vae\.safetensors there"):
        find("acestep-v15-xl-turbo")


@pytest.mark.parametrize("family", ["2b", "xl"])
def test_all_in_one_is_all_four(host, find, pack, family):
    host(("aio", family))
    (name,) = pack("host.folders").model_names()
    found = find(name)
    assert name.startswith("checkpoints/acestep_tiny")
    assert found.decoder is found.conditioner is found.text_encoder is found.vae


@pytest.mark.parametrize("layout", ["split", "aio", "upstream", "diffusers"])
@pytest.mark.parametrize("family", ["2b", "xl"])
def test_a_saved_decoder_finds_the_only_model_of_its_size(host, find, save_decoder, pack, layout, family):
    other = "xl" if family == "2b" else "2b"
    host((layout, family), ("aio" if layout == "split" else "split", other))
    name = save_decoder(family=family)
    found = find(name, "auto", *own_files(pack, layout, family))
    assert found.decoder.parts == {"decoder"} and found.conditioner.layout == layout
    assert found.decoder.shapes("decoder") == found.conditioner.shapes("decoder")
    assert found.decoder.config("decoder").sliding_window == 8  # which only the conditioner's config says
    assert found.decoder.config("decoder").model_version is None


def own_files(pack, layout, family):
    """Choices of text encoder and VAE where those of the other family fit as well."""
    if layout != "split":
        return "auto", "auto"
    name = f"acestep_tiny{'_xl' if family == 'xl' else ''}"
    return f"{name}_text_encoder.safetensors", f"{name}_vae.safetensors"


def test_a_saved_decoder_without_its_model_says_what_is_missing(host, find, save_decoder):
    host("split")
    name = save_decoder(family="xl")
    match = (
        r"conditioner: saved\.safetensors holds a decoder and nothing else \(width 96, 4 layers\).*"
        r"no whole model of this size is installed\. Put the one .* into .*diffusion_models or .*checkpoints"
    )
    with pytest.raises(ValueError, match=match):
        find(name)


def test_a_saved_decoder_with_several_models_lists_them(host, find, save_decoder):
    root = host("split") / "diffusion_models"
    shutil.copy(root / "acestep_tiny_turbo.safetensors", root / "acestep_tiny_base.safetensors")
    name = save_decoder()
    with pytest.raises(
        ValueError, match=r"Several models fit \(acestep_tiny_base\.safetensors, acestep_tiny_turbo\.safetensors\)"
    ):
        find(name)
    found = find(name, "acestep_tiny_base.safetensors")
    assert found.conditioner.path.name == "acestep_tiny_base.safetensors"


def test_models_of_one_name_in_two_folders_are_listed_with_their_paths(host, find, save_decoder):
    root = host("split")
    (root / "checkpoints").mkdir()
    shutil.copy(root / "diffusion_models/acestep_tiny_turbo.safetensors", root / "checkpoints")
    with pytest.raises(ValueError, match=r"Several models fit \(.*/diffusion_models/.*, .*/checkpoints/acestep_tiny"):
        find(save_decoder())


def test_a_conditioner_of_another_size_is_refused_by_its_widths(host, find, save_decoder):
    host("split")
    match = "conditioner: saved.*decoder of width 96 with 4 layers.*acestep_tiny_turbo.* one of width 64 with 4 layers"
    with pytest.raises(ValueError, match=match):
        find(save_decoder(family="xl"), "acestep_tiny_turbo.safetensors")


def test_a_conditioner_that_is_no_whole_model_is_refused(host, find, save_decoder):
    host("split")
    save_decoder("other.safetensors")
    with pytest.raises(ValueError, match=r"conditioner: other\.safetensors holds a decoder and not a whole model"):
        find(save_decoder(), "other.safetensors")


def test_the_conditioner_of_a_whole_model_may_be_another_one(host, find):
    root = host("split") / "diffusion_models"
    shutil.copy(root / "acestep_tiny_turbo.safetensors", root / "acestep_tiny_base.safetensors")
    found = find("acestep_tiny_turbo.safetensors", "acestep_tiny_base.safetensors")
    assert (found.decoder.path.name, found.conditioner.path.name) == (
        "acestep_tiny_turbo.safetensors",
        "acestep_tiny_base.safetensors",
    )
    same = find("acestep_tiny_turbo.safetensors", "acestep_tiny_turbo.safetensors")
    assert same.conditioner is same.decoder


def test_a_lora_among_the_models_is_named(host, find):
    from safetensors.torch import save_file

    root = host("split") / "diffusion_models"

    key = "base_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({key: torch.zeros(4, 64)}, root / "lora.safetensors")
    host.again()
    with pytest.raises(ValueError, match=r"lora\.safetensors: this is a LoRA for ACE-Step 1\.5.*models/loras"):
        find("lora.safetensors")


def test_a_text_encoder_of_another_width_is_named(host, find):
    from safetensors.torch import load_file, save_file

    root = host("split")
    file = root / "text_encoders/acestep_tiny_text_encoder.safetensors"

    tensors = load_file(file)
    wide = {key: torch.cat([value, value], dim=-1) for key, value in tensors.items() if "proj" not in key}
    config = {"acestep_role": "text_encoder"}
    save_file(tensors | wide, root / "text_encoders/wide.safetensors", config)
    host.again()
    with pytest.raises(ValueError, match="text_encoder: wide.safetensors answers in width 64, .* reads width 32"):
        find("acestep_tiny_turbo.safetensors", text_encoder="wide.safetensors")


def test_a_saved_decoder_watches_the_models_it_may_take(host, save_decoder, pack):
    stamp = pack("host.sources").stamp_sources
    root = host("split") / "diffusion_models"
    name, whole = save_decoder(), "acestep_tiny_turbo.safetensors"
    auto, chosen, plain = stamp(name), stamp(name, whole), stamp(whole)
    assert whole in auto and whole in chosen
    shutil.copy(root / whole, root / "another.safetensors")
    host.again()
    assert stamp(name) != auto and stamp(name, whole) == chosen and stamp(whole) == plain


@pytest.mark.parametrize("layout", ["upstream", "aio", "saved"])
@pytest.mark.parametrize("family", ["2b", "xl"])
def test_every_layout_is_loaded_to_the_same_weights(host, find, pack, sets, save_decoder, layout, family):

    host(("split", family)) if layout == "saved" else host((layout, family))
    name = save_decoder(family=family) if layout == "saved" else pack("host.folders").model_names()[0]
    loaded = pack("host.loader").load(find(name), "turbo", "fp32")
    from acestep_models.loading import load_state, probe

    whole = probe(sets("split", family).model)
    networks = {"decoder": loaded.model.model.diffusion_model.decoder, "condition": loaded.conditioner.condition.module}
    networks["detokenizer"] = loaded.conditioner.detokenizer.module
    for part, module in networks.items():
        wanted = load_state(whole, part, torch.float32)
        assert all(torch.equal(value, wanted[key]) for key, value in module.state_dict().items()), part
    assert loaded.model.model.config.sliding_window == 8
    recall, arguments = loaded.model.cached_patcher_init
    again = recall(*arguments).model.diffusion_model.decoder.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in networks["decoder"].state_dict().items())


def test_of_two_files_of_one_name_the_node_says_which_is_used(pack, find, sets, model_folders, tmp_path):
    found = sets("split")
    for name in ("first", "second"):
        for folder, file in zip(FOLDERS, (found.model, found.text_encoder, found.vae), strict=True):
            (tmp_path / name / folder).mkdir(parents=True)
            shutil.copy(file, tmp_path / name / folder)
    model_folders(**{kind: [tmp_path / "first" / kind, tmp_path / "second" / kind] for kind in FOLDERS})
    (tmp_path / "second/vae" / found.vae.name).unlink()
    sources = find(found.model.name)
    assert pack("host.sources").doubles(sources) == tuple(
        f"{file.name} is in several folders: used is {tmp_path}/first/{kind}/{file.name}, "
        f"not {tmp_path}/second/{kind}/{file.name}"
        for kind, file in (("diffusion_models", found.model), ("text_encoders", found.text_encoder))
    )


def test_a_model_that_is_called_a_lora_is_a_model(host, find):
    root = host("split") / "diffusion_models"
    (root / "acestep_tiny_turbo.safetensors").rename(root / "my_lora.safetensors")
    host.again()
    assert find("my_lora.safetensors").decoder.parts == {"decoder", "condition", "tokenizer", "detokenizer"}
