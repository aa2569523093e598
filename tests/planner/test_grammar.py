"""The grammar: fixed text in one piece, values in their domains, captions that end where they must."""

from __future__ import annotations

import random

import pytest

from acestep_models.blueprint import KEYS, LANGUAGES, MAX_BPM, MIN_BPM, TIME_SIGNATURES
from acestep_models.planner.actions import Choose, Force, Stop
from acestep_models.planner.grammar import BlockWriter, Field, Outline
from acestep_models.planner.parse import read_answer, split_fields
from acestep_models.planner.tries import Trie
from acestep_models.planner.vocabulary import NAMES, TRAINED_KEYS

ALL = tuple(Field(name) for name in NAMES)
FIXED = {
    "bpm": 120,
    "caption": "It's a song: with a colon # and a very long line that goes on behind the eightieth column",
    "duration": 30,
    "genres": "folk, jazz",
    "keyscale": "C# minor",
    "language": "no",
    "timesignature": "4",
}


@pytest.fixture
def writer(tiny_vocabulary):
    """writer(fields, ...) for the tiny tokenizer."""
    return lambda *fields, **settings: BlockWriter(tiny_vocabulary, Outline(fields, **settings))


@pytest.fixture
def encode(tiny_vocabulary):
    """Ids as a tuple."""
    return lambda text: tuple(tiny_vocabulary.tokenizer.encode(text))


def start(writer):
    """The first choice of a writer that begins with fixed text."""
    assert isinstance(writer.next_action(), Force)
    return writer.next_action()


def test_a_trie_knows_where_values_go_on_and_where_they_end():
    trie = Trie.of([(1, 2, 9), (1, 3, 9), (4, 9)])
    assert trie.children[0].keys() == {1, 4} and trie.children[trie.children[0][1]].keys() == {2, 3}
    assert len(trie) == 8 and trie.longest == 3
    with pytest.raises(ValueError, match="1 of 2 values begin another"):
        Trie.of([(1, 2), (1, 2, 3)])


def test_fixed_text_comes_in_one_piece(writer, encode):
    """Tags, names, the user's values and the space before the next choice: one pass of the model."""
    song = writer(Field("bpm", 120), Field("duration", 30), Field("keyscale"))
    assert song.next_action() == Force(encode("<think>\nbpm: 120\nduration: 30\nkeyscale: "))
    assert song.next_action() == Choose(encode("ABCDEFG"))


def test_a_user_value_between_two_free_ones_joins_them(writer, encode):
    song = writer(Field("bpm"), Field("duration", 30), Field("timesignature"))
    assert song.next_action() == Force(encode("<think>\nbpm: "))
    for digit in "97":
        choice = song.next_action()
        assert isinstance(choice, Choose)
        song.take(*encode(digit))
    assert song.next_action() == Force(encode("\nduration: 30\ntimesignature: "))  # 97x would be beyond the domain
    assert song.next_action() == Choose(encode("2346"))
    song.take(*encode("4"))
    assert song.next_action() == Force(encode("\n")) and song.next_action() == Stop()


def test_nothing_is_run_for_a_plan_without_gaps(writer):
    fixed = [Field(name, FIXED[name]) for name in NAMES]
    assert writer(*fixed).next_action() == Stop() and writer().next_action() == Stop()


def test_a_plan_ends_with_its_last_wanted_value(writer, encode, play, tiny_vocabulary):
    """Language detection: what the model writes before is not read, what would come behind is not written."""
    fields = [Field("bpm", wanted=False), Field("language"), Field("timesignature", wanted=False)]
    text = tiny_vocabulary.tokenizer.decode(play(writer(*fields), 0))
    assert text.startswith("<think>\nbpm: ") and text.split("\n")[2].startswith("language: ") and text.count("\n") == 3


def test_fixed_lines_are_those_of_the_training_data(writer, encode):
    song = writer(*[Field(name, FIXED[name]) for name in NAMES], lyrics=True)
    assert song.next_action() == Force(
        encode(
            "<think>\nbpm: 120\ncaption: 'It''s a song: with a colon # and a very long line that goes on behind the\n"
            "  eightieth column'\nduration: 30\ngenres: folk, jazz\nkeyscale: C# minor\nlanguage: 'no'\n"
            "timesignature: 4\n</think>"
        )
    )


def test_language_is_greedy_and_the_others_are_not(writer):
    assert start(writer(Field("language"))).greedy
    assert not start(writer(Field("bpm"))).greedy


@pytest.mark.parametrize("name", ["caption", "genres"])
def test_the_last_token_of_a_wordless_value_is_a_word(writer, tiny_vocabulary, name):
    """A model that writes half letters up to the cap still says something."""
    broken = next(token for token in range(630) if tiny_vocabulary.tokenizer.decode([token]) == "\ufffd")
    song, masks = writer(Field(name), caption_tokens=3, genre_tokens=3), tiny_vocabulary.masks
    assert start(song).allowed is masks.line
    song.take(broken)
    assert song.next_action().allowed is masks.line
    song.take(broken)
    assert song.next_action().allowed is masks.word


def test_a_caption_begins_with_a_word(writer, encode, tiny_vocabulary):
    song, masks = writer(Field("caption"), Field("duration")), tiny_vocabulary.masks
    assert start(song).allowed is masks.line
    song.take(*encode(" "))
    assert song.next_action().allowed is masks.line
    song.take(*encode("a"))
    assert song.next_action().allowed is masks.caption


@pytest.mark.parametrize("end", ["\n", ".\n", "\n\n"])
def test_behind_a_line_end_the_caption_goes_on_indented_or_the_next_field_begins(writer, encode, end):
    """A merged token such as ".\\n" ends a line like a lone one."""
    song = writer(Field("caption"), Field("duration", 30), Field("keyscale"))
    start(song)
    for token in (*encode("a"), *encode(end)):
        song.take(token)
    allowed = song.next_action().allowed
    (follower, *rest) = encode("duration: 30\nkeyscale: ")
    assert allowed[follower] and allowed[encode(" ")[0]] and allowed[encode("\t")[0]]
    assert not allowed[encode("a")[0]] and not allowed[encode("\n")[0]] and not allowed[encode("keyscale")[0]]
    song.take(*encode(" "))
    assert song.next_action().allowed[encode("a")[0]]
    for token in (*encode("b"), *encode(end), follower):
        song.take(token)
    assert song.next_action() == Force(tuple(rest))
    assert isinstance(song.next_action(), Choose)


def test_a_caption_ends_at_its_cap(writer, encode):
    song = writer(Field("caption"), Field("duration"), caption_tokens=3)
    start(song)
    for token in encode("aaa"):
        song.take(token)
    assert song.next_action() == Force(encode("\nduration: "))
    cut_at_a_line_end = writer(Field("caption"), Field("duration"), caption_tokens=2)
    start(cut_at_a_line_end)
    for token in encode("a\n"):
        cut_at_a_line_end.take(token)
    assert cut_at_a_line_end.next_action() == Force(encode("duration: "))


def test_genres_are_one_line(writer, encode, tiny_vocabulary):
    song, masks = writer(Field("genres"), Field("keyscale"), genre_tokens=9), tiny_vocabulary.masks
    assert start(song).allowed is masks.line
    song.take(*encode("a"))
    allowed = song.next_action().allowed
    assert allowed[encode(".\n")[0]] and not allowed[encode("\n\n")[0]]
    song.take(*encode(".\n"))
    assert song.next_action() == Force(encode("keyscale: "))
    capped = writer(Field("genres"), genre_tokens=1)
    start(capped)
    capped.take(*encode("a"))
    assert capped.next_action() == Force(encode("\n")) and capped.next_action() == Stop()


def test_lyrics_are_any_text_until_the_answer_ends(writer, encode, tiny_vocabulary):
    words, song = tiny_vocabulary, writer(Field("bpm", 120), lyrics=True)
    assert song.next_action() == Force(encode("<think>\nbpm: 120\n</think>"))
    allowed = song.next_action().allowed
    assert allowed[words.im_end] and int(allowed.sum()) == words.code_base - 4
    song.take(*encode("a"))
    assert song.next_action().allowed is allowed  # the same tensor again and again
    song.take(words.im_end)
    assert song.next_action() == Stop()
    capped = writer(Field("bpm", 120), lyrics=True, lyric_tokens=1)
    start(capped)
    capped.take(*encode("a"))
    assert capped.next_action() == Stop()


def test_control_tokens_are_never_free_text(tiny_vocabulary):
    words, masks = tiny_vocabulary, tiny_vocabulary.masks
    control = [words.im_start, words.end_of_text, words.think, words.think_end]
    for mask in (masks.lyrics, masks.line, masks.caption, masks.genres):
        assert mask.shape == (words.code_base,) and not mask[control].any()
    assert not any(mask[words.im_end] for mask in (masks.line, masks.caption, masks.genres))
    assert not masks.caption[words.tokenizer.encode("`")].any()


def test_songs_do_not_share_their_state(writer, encode):
    one, other = writer(Field("bpm")), writer(Field("bpm"))
    assert set(start(one).ids) == set(encode("123456789"))
    one.take(*encode("3"))
    assert set(one.next_action().ids) == set(encode("0123456789"))
    assert set(start(other).ids) == set(encode("123456789"))


@pytest.mark.parametrize("fields", [[Field("caption"), Field("bpm")], [Field("bpm"), Field("bpm")], [Field("mood")]])
def test_an_outline_has_known_fields_in_order(fields):
    with pytest.raises(ValueError, match="expected fields out of bpm, caption"):
        Outline(tuple(fields))


def random_outline(chance):
    """Any mixture of fixed, free and missing fields, with and without lyrics."""
    values = {
        "bpm": chance.randint(MIN_BPM, MAX_BPM),
        "caption": "".join(chance.choice("ab :'#\"-漢\n") for _ in range(chance.randrange(1, 200))).strip() or "a",
        "duration": chance.randint(10, 600),
        "genres": "folk",
        "keyscale": chance.choice(KEYS),
        "language": chance.choice(LANGUAGES),
        "timesignature": chance.choice(TIME_SIGNATURES),
    }
    fields = [Field(name, chance.choice((None, value))) for name, value in values.items() if chance.random() < 0.9]
    return Outline(tuple(fields), chance.random() < 0.5, caption_tokens=chance.randint(1, 60), lyric_tokens=40)


LEGAL = {
    "bpm": lambda text: text.isdecimal() and MIN_BPM <= int(text) <= MAX_BPM,
    "duration": lambda text: text.isdecimal() and 10 <= int(text) <= 600,
    "keyscale": TRAINED_KEYS.__contains__,
    "language": lambda text: text.strip("'") in LANGUAGES,
    "timesignature": TIME_SIGNATURES.__contains__,
}


@pytest.mark.parametrize("share", range(4))
def test_random_tokens_always_give_a_block_that_parses(tiny_vocabulary, play, share):
    """240 blocks of noise: fixed values verbatim, free ones in their domain, every free one read."""
    names = {"keyscale": "key", "timesignature": "time_signature", "duration": "seconds"}
    for seed in range(60 * share, 60 * share + 60):
        outline = random_outline(random.Random(seed))
        song = BlockWriter(tiny_vocabulary, outline)
        ids = play(song, seed, song.most_tokens + 1)
        answer, written = read_answer(tiny_vocabulary, ids), wanted_lines(tiny_vocabulary, outline, ids)
        assert answer.problems == ()
        for field in outline.fields:
            place = names.get(field.name, field.name)
            if field.name not in written:
                continue
            if field.value is None:
                assert place in answer.values
                assert field.name not in LEGAL or LEGAL[field.name](written[field.name].strip())
            else:
                expected = " ".join(str(field.value).split())
                assert str(answer.values[place]).removesuffix(".0") == expected, field


def wanted_lines(vocabulary, outline, ids):
    """The raw fields of a text; those behind the last free one are not written without lyrics."""
    text = vocabulary.tokenizer.decode(ids).split("</think>")[0]
    fields = split_fields(text.removeprefix("<think>\n"))
    free = [field.name for field in outline.fields if field.value is None]
    expected = [field.name for field in outline.fields]
    if not outline.lyrics:
        expected = expected[: expected.index(free[-1]) + 1] if free else []
    assert list(fields) == expected
    return fields


@pytest.mark.host
def test_random_tokens_of_the_published_vocabulary_parse(real_vocabulary, play):
    for seed in range(40):
        outline = random_outline(random.Random(seed))
        ids = play(BlockWriter(real_vocabulary, outline), seed)
        answer, written = read_answer(real_vocabulary, ids), wanted_lines(real_vocabulary, outline, ids)
        assert answer.problems == () and len(answer.values) == len(written)
