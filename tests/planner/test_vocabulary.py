"""What the grammar knows of a tokenizer, against its definition and against counts of the published one."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from acestep_models.lm_prompts import TAG, codes_prompt, negative_prompt, think_block
from acestep_models.planner.vocabulary import DOMAINS, TRAINED_KEYS, Vocabulary, trie_of_lines
from acestep_models.qwen3.tokenizer import Tokenizer, byte_level_bpe
from acestep_models.tiny.tokens import BYTE_LETTERS, SPECIAL, THINK, text_tokenizer


def test_control_ids_are_those_of_the_tokenizer(tiny_vocabulary):
    words, find = tiny_vocabulary, tiny_vocabulary.tokenizer.token_id
    assert (words.end_of_text, words.im_start, words.im_end) == tuple(find(name) for name in SPECIAL)
    assert (words.think, words.think_end) == tuple(find(name) for name in THINK)
    assert words.tokenizer.encode("\n") == [words.newline]
    assert words.code_base == find("<|audio_code_0|>") == 630
    assert words.codes([0, 63_999]) == [630, find("<|audio_code_63999|>")]


def test_masks_are_what_they_say(tiny_vocabulary):
    """Token by token, from its text."""
    words, masks = tiny_vocabulary, tiny_vocabulary.masks
    for token in range(words.code_base):
        text = words.tokenizer.decode([token])
        ordinary = text not in (*SPECIAL, *THINK)
        value = ordinary and "`" not in text
        word = any(letter.isalnum() for letter in text)
        assert masks.lyrics[token] == (ordinary or text == "<|im_end|>")
        assert masks.caption[token] == value
        assert masks.line[token] == (value and "\n" not in text)
        assert masks.genres[token] == (value and text.count("\n") < 2)
        assert (token in masks.line_ends) == (ordinary and "\n" in text)
        assert (token in masks.words) == (ordinary and word) and masks.word[token] == (
            value and word and "\n" not in text
        )
        for follower, mask in masks.next_line.items():
            assert mask[token] == (token == follower or (value and text[0] in " \t"))


def test_every_follower_of_a_caption_has_a_mask(tiny_vocabulary):
    encode = tiny_vocabulary.tokenizer.encode
    firsts = {encode(f"{name}:")[0] for name in ("duration", "genres", "keyscale", "language", "timesignature")}
    assert {*firsts, tiny_vocabulary.think_end} <= tiny_vocabulary.masks.next_line.keys()


def values_of(vocabulary, name):
    """Every path of a trie as text."""
    children, found, open_paths = vocabulary.tries[name].children, [], [(0, ())]
    while open_paths:
        node, path = open_paths.pop()
        if not children[node]:
            found.append(vocabulary.tokenizer.decode(path))
        open_paths += [(child, (*path, token)) for token, child in children[node].items()]
    return sorted(found)


@pytest.mark.parametrize("name", DOMAINS)
def test_tries_hold_each_value_once(tiny_vocabulary, name):
    quoted = ("'no'" if value == "no" else value for value in DOMAINS[name])
    assert values_of(tiny_vocabulary, name) == sorted(f" {value}\n" for value in quoted)


def test_domains_are_the_trained_ones():
    sizes = {name: len(values) for name, values in DOMAINS.items()}
    assert sizes == {"bpm": 271, "duration": 591, "keyscale": 70, "language": 51, "timesignature": 4}
    assert {"Cb minor", "E# major", "B♭ major", "F♯ minor"} <= set(TRAINED_KEYS)


def test_a_tokenizer_that_ends_before_the_codes_gets_their_published_place():
    """ComfyUI's has no audio tokens; here the text encoder's stands for it."""
    words = Vocabulary.read(Tokenizer(text_tokenizer()))
    assert words.code_base == 151_669 and words.masks.lyrics.shape == (151_669,)
    assert not words.masks.lyrics[630:].any()


def test_a_token_that_would_fake_a_field_is_not_part_of_a_caption():
    """A token with text behind its line end could begin the line "key"; no published tokenizer has one."""
    alphabet = {letter: index for index, letter in enumerate(BYTE_LETTERS)}
    inner = byte_level_bpe({**alphabet, "Ċk": 256}, [("Ċ", "k")])
    inner.add_special_tokens(list(SPECIAL))
    inner.add_tokens([AddedToken(word, special=False, normalized=False) for word in THINK])
    words = Vocabulary.read(Tokenizer(inner))
    assert words.tokenizer.decode([256]) == "\nk"
    assert not words.masks.caption[256] and not words.masks.line[256] and words.masks.lyrics[256]


def test_a_tokenizer_without_chat_tokens_is_refused():
    inner = byte_level_bpe({letter: index for index, letter in enumerate(BYTE_LETTERS)}, [])
    inner.add_special_tokens(["<|endoftext|>"])
    with pytest.raises(ValueError, match=r"no single token for '<\|im_start\|>', so it is not one of Qwen3"):
        Vocabulary.read(Tokenizer(inner))


@pytest.mark.host
def test_published_control_ids(real_vocabulary):
    words = real_vocabulary
    assert (words.end_of_text, words.im_start, words.im_end) == (151643, 151644, 151645)
    assert (words.think, words.think_end, words.newline) == (151667, 151668, 198)
    assert words.code_base == 151669 and words.codes([0, 63999]) == [151669, 215668]


@pytest.mark.host
def test_published_trie_sizes(real_vocabulary):
    """Node counts of spec/planner.md §3.3; Norwegian in quotes, as in the training data, takes one more."""
    assert {name: len(trie) for name, trie in real_vocabulary.tries.items()} == {
        "bpm": 573, "duration": 1193, "keyscale": 176, "language": 105, "timesignature": 10,
    }  # fmt: skip
    bare = trie_of_lines(real_vocabulary.tokenizer, "language", (f"language: {code}" for code in DOMAINS["language"]))
    assert len(bare) == 104
    assert len(bare.children[0]) == len(real_vocabulary.tries["language"].children[0]) == 51


@pytest.mark.host
def test_published_token_classes(real_vocabulary):
    """2178 tokens with a line end, 54 345 that begin with a space or tab, 108 with a backtick; 26 control tokens."""
    masks, text = real_vocabulary.masks, real_vocabulary.tokenizer.decode
    control = [token for token in range(151_669) if TAG.fullmatch(text([token]))]
    assert control == list(range(151_643, 151_669))
    assert len(masks.line_ends) == 2178 and text([624]) == ".\n" and 624 in masks.line_ends
    backticks = [token for token in range(151_643) if not masks.caption[token]]
    assert len(backticks) == 108 and all("`" in text([token]) for token in backticks)
    spaces = masks.next_line[real_vocabulary.think_end].sum() - 1
    with_backtick = sum(text([token])[0] in " \t" for token in backticks)
    assert spaces + with_backtick == 54_345
    assert int(masks.lyrics.sum()) == 151_643 + 1


@pytest.mark.host
def test_published_prompts(real_vocabulary):
    """The two prompts of spec/planner.md §2.4."""
    encode = real_vocabulary.tokenizer.encode
    prompt = encode(codes_prompt("calm piano", "[Instrumental]", think_block({"bpm": 90, "duration": 30})))
    negative = encode(negative_prompt())
    assert len(prompt) == 58 and len(negative) == 33
    assert prompt[-17:] == [151667, 198, 65, 5187, 25, 220, 24, 15, 198, 17021, 25, 220, 18, 15, 198, 151668, 271]
    assert negative[-4:] == [151667, 271, 151668, 271]
    assert prompt[:4] == [151644, 8948, 198, 2] and 1447 in prompt[:20]
