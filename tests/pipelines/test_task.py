"""Work on a sound: how often it is read, what a reference and a strength change, batches, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.dit.codes import AudioTokenizer
from acestep_models.dit.condition import ConditionEncoder
from acestep_models.pipelines.add_track import region_frames
from acestep_models.pipelines.encode import encode_song, encode_songs
from acestep_models.pipelines.listen import Source, source_codes
from acestep_models.pipelines.reference import Reference
from acestep_models.pipelines.task import Work, encode_work, work_frames
from acestep_models.prompts import caption_prompt, lyric_prompt
from acestep_models.runtime import PlainRuntime
from acestep_models.tasks import TASKS, instruction
from acestep_models.units import HOP

FRAMES = 53
SONGS = (
    Blueprint(caption="piano", lyrics="la"),
    Blueprint(caption="a long description of a song", lyrics="[Verse]\n" + "la la\n" * 20, bpm=99),
)
ON_SOURCE = [name for name, task in TASKS.items() if task.needs == "source"]
# Where a task writes if it wants to be told; all of the source, so that it is like the others.
SPANS = {name: ((0, FRAMES),) if task.spans == "many" else () for name, task in TASKS.items()}


def noise_source(frames, seed=0, rest=700):
    """Latents without a sound, and a wave of their length."""
    latents = torch.randn(1, 64, frames, generator=torch.Generator("cpu").manual_seed(seed))
    return Source(latents, torch.zeros(1, 2, frames * HOP + rest))


SOURCE = noise_source(FRAMES)


def reference(count, seed=1):
    return Reference(torch.randn(count, 750, 64, generator=torch.Generator("cpu").manual_seed(seed)))


@pytest.fixture
def count_calls(monkeypatch):
    """count_calls(network class) -> a list that grows with every call of it."""

    def watch(kind):
        calls, original = [], kind.forward
        monkeypatch.setattr(kind, "forward", lambda *args: calls.append(args[1:]) or original(*args))
        return calls

    return watch


def encode(models, work, songs=SONGS[:1], frames=FRAMES):
    return encode_work(PlainRuntime(), models.conditioner, songs, work, frames)


def on(name, source, **values):
    """A row of TASKS at work on all of its source."""
    return Work(name, source, spans=SPANS[name], **values)


def check_equal(one, other):
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.context, other.context)
    assert torch.equal(one.null, other.null)
    assert (one.mask is None) == (other.mask is None)
    assert one.mask is None or torch.equal(one.mask, other.mask)


@pytest.mark.parametrize("name", ON_SOURCE)
@pytest.mark.parametrize(("strength", "sets"), [(1.0, 1), (0.99, 2), (0.0, 2)])
def test_one_call_of_the_condition_encoder_for_a_song_and_set(tiny_models, count_calls, name, strength, sets):
    """The second set is made only below strength 1; the source is tokenised once, whatever is in the batch."""
    conditions, tokenized = count_calls(ConditionEncoder), count_calls(AudioTokenizer)
    plan = encode(tiny_models, on(name, SOURCE, strength=strength), [*SONGS, SONGS[0]])
    assert len(conditions) == 2 * sets and (plan.second is not None) == (sets == 2)
    assert len(tokenized) == (1 if TASKS[name].hints else 0)
    assert plan.share == strength


@pytest.mark.parametrize("recordings", [1, 3])
@pytest.mark.parametrize("name", TASKS)
def test_a_reference_changes_nothing_but_the_timbre_tokens(tiny_models, name, recordings):
    """Lyrics, caption, context and codes stay byte for byte, in both sets of a weak cover as well."""
    models, task = tiny_models.conditioner, TASKS[name]
    source = SOURCE if task.needs == "source" else None
    song = replace(SONGS[1], codes=range(10)) if task.needs == "codes" else SONGS[1]
    frames = FRAMES if source else 50
    work = on(name, source, strength=1.0 if task.needs == "nothing" else 0.5)
    without, having = (
        encode(tiny_models, one, [song], frames) for one in (work, replace(work, reference=reference(recordings)))
    )
    lyrics = len(models.tokenizer.encode_prompt(lyric_prompt(song)))
    for plain, timbred in ((without.first, having.first), (without.second, having.second)):
        if plain is None:
            assert timbred is None
            continue
        assert torch.equal(plain.context, timbred.context) and torch.equal(plain.null, timbred.null)
        assert torch.equal(plain.tokens[:, :lyrics], timbred.tokens[:, :lyrics])
        assert torch.equal(plain.tokens[:, lyrics + 1 :], timbred.tokens[:, lyrics + recordings :])
        timbre = [plain.tokens[:, lyrics], *(timbred.tokens[:, lyrics + k] for k in range(recordings))]
        for k, token in enumerate(timbre):
            assert all(not torch.equal(token, other) for other in timbre[:k])


def test_recordings_become_tokens_in_their_order(tiny_models):
    both = reference(2)
    first, second = (Reference(both.latents[k : k + 1]) for k in (0, 1))
    runtime, models = PlainRuntime(), tiny_models.conditioner
    at = len(models.tokenizer.encode_prompt(lyric_prompt(SONGS[0])))
    tokens = encode_song(runtime, models, SONGS[0], 50, both).tokens
    for k, single in enumerate((first, second)):
        alone = encode_song(runtime, models, SONGS[0], 50, single).tokens
        torch.testing.assert_close(tokens[:, at + k], alone[:, at], rtol=0, atol=1e-5)


def test_text_to_music_as_work_is_text_to_music(tiny_models):
    """With and without a reference, with and without codes, in one batch."""
    songs = [SONGS[0], replace(SONGS[1], codes=range(10)), SONGS[1]]
    for timbre in (None, reference(2)):
        plan = encode(tiny_models, Work("text2music", reference=timbre), songs, 50)
        check_equal(plan.first, encode_songs(PlainRuntime(), tiny_models.conditioner, songs, 50, timbre))


@pytest.mark.parametrize("name", ON_SOURCE)
def test_the_second_set_is_text_to_music_with_the_reference_kept(tiny_models, name):
    plan = encode(tiny_models, on(name, SOURCE, reference=reference(2), strength=0.3), SONGS)
    check_equal(plan.second, encode_songs(PlainRuntime(), tiny_models.conditioner, SONGS, FRAMES, reference(2)))
    check_equal(plan.first, encode(tiny_models, on(name, SOURCE, reference=reference(2)), SONGS).first)


def test_the_second_set_of_codes_forgets_the_codes(tiny_models):
    songs = [SONGS[0], replace(SONGS[1], codes=range(10))]
    plan = encode(tiny_models, Work("text2music", strength=0.0), songs, 50)
    check_equal(plan.second, encode_songs(PlainRuntime(), tiny_models.conditioner, SONGS, 50))


@pytest.mark.parametrize("name", ON_SOURCE)
def test_item_k_of_a_batch_equals_its_single_run(tiny_models, name):
    together = encode(tiny_models, on(name, SOURCE, strength=0.5), [*SONGS, SONGS[0]])
    for batch in (together.first, together.second):
        assert batch.context.shape == (3, FRAMES, 128)
    for k, song in enumerate([*SONGS, SONGS[0]]):
        alone = encode(tiny_models, on(name, SOURCE, strength=0.5), [song])
        for batch, single in ((together.first, alone.first), (together.second, alone.second)):
            length = single.tokens.shape[1]
            assert torch.equal(batch.tokens[k : k + 1, :length], single.tokens)
            assert torch.equal(batch.context[k : k + 1], single.context)
            assert batch.mask[k].tolist() == [True] * length + [False] * (batch.tokens.shape[1] - length)


@pytest.mark.parametrize("name", ON_SOURCE)
def test_the_source_says_length_and_structure(tiny_models, count_calls, name):
    """Codes and seconds of a blueprint are not read beside a source, nor do they keep equal songs apart."""
    told = replace(SONGS[0], codes=range(60), seconds=12.0)
    assert work_frames([told, replace(SONGS[1], seconds=40.0)], on(name, SOURCE)) == FRAMES
    plain, coded = (encode(tiny_models, on(name, SOURCE, strength=0.5), [song]) for song in (SONGS[0], told))
    check_equal(plain.first, coded.first)
    check_equal(plain.second, coded.second)
    calls = count_calls(ConditionEncoder)
    encode(tiny_models, on(name, SOURCE), [SONGS[0], told])
    assert len(calls) == 1


def test_the_codes_of_a_source_in_a_blueprint_are_its_cover(tiny_models):
    """What a cover reads is what text to music reads of the codes that stand for the source."""
    source = noise_source(55)
    codes = source_codes(PlainRuntime(), tiny_models.conditioner, source)
    cover = encode(tiny_models, Work("cover", source), frames=55)
    coded = encode(tiny_models, Work("text2music+codes"), [replace(SONGS[0], codes=codes)], 55)
    check_equal(cover.first, coded.first)


@pytest.mark.parametrize("name", ON_SOURCE)
def test_words_are_not_needed_beside_a_source(tiny_models, name):
    sentence = instruction(name)
    batch = encode(tiny_models, on(name, SOURCE), [Blueprint()]).first
    prompts = lyric_prompt(Blueprint()), caption_prompt(Blueprint(), 2.12, sentence)
    lengths = [len(tiny_models.conditioner.tokenizer.encode_prompt(prompt)) for prompt in prompts]
    assert "[Instrumental]" in prompts[0] and "duration: 2 seconds" in prompts[1]
    assert batch.tokens.shape[1] == sum(lengths) + 1


@pytest.mark.parametrize(
    ("region", "span"),
    [
        ((0.0, 2.0), (0, 50)),
        ((0.039, 0.041), (0, 1)),  # a frame is the least
        ((0.5, 1.0), (12, 25)),
        ((0.0, SOURCE.seconds), (0, 53)),
        ((1.16, 1.2), (29, 30)),  # 1.16 · 48 000 is 55 679.999... in floating point
        ((2.125, SOURCE.seconds), (52, 53)),  # in the rest that is no frame any more
    ],
)
def test_a_region_in_frames(tiny_models, region, span):
    """From sample start · 48 000 // 1920 up to sample end · 48 000 // 1920; the source stays whole."""
    assert region_frames(SOURCE, *region) == span
    work = Work("lego", SOURCE, ("bass",), (span,), strength=0.5)
    plan = encode(tiny_models, work)
    mask = torch.zeros(FRAMES)
    mask[span[0] : span[1]] = 1
    for batch in (plan.first, plan.second):
        assert torch.equal(batch.context[0, :, 64:], mask[:, None].expand(-1, 64))
    assert torch.equal(plan.first.context[..., :64], SOURCE.latents.transpose(1, 2))
    assert torch.equal(plan.second.context[..., :64], tiny_models.conditioner.silence.take(FRAMES))


def test_a_region_begins_at_the_frame_that_it_names():
    """Where upstream's int(4.6 · 48 000) // 1920 is 114."""
    assert int(4.6 * 48_000) // 1920 == 114
    long = Source(torch.zeros(1, 64, 250), torch.zeros(1, 2, 480_000))
    assert region_frames(long, 4.6, 4.64) == (115, 116)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "remix"}, "task: expected one of text2music, .*, got 'remix'"),
        ({"task": "extract", "tracks": ("lute",)}, "extract: expected tracks out of .*, got 'lute'"),
        ({"task": "extract", "tracks": ("bass", "drums")}, "extract: takes 1 track"),
        ({"task": "cover", "source": None}, "cover: works on a source, and there is none; give one"),
        ({"task": "lego", "source": None, "spans": ((0, 1),)}, "lego: works on a source, and there is none"),
        ({"task": "text2music", "source": None, "start_noise": 0.4}, "start_noise 0.4 starts from a source, and there"),
        ({"task": "text2music"}, "text2music: reads no source; leave it out, start from it"),
        ({"task": "text2music+codes"}, "reads no source"),
        ({"task": "cover", "spans": ((0, 1),)}, r"cover: works on the whole source, got 1 span\(s\) of it"),
        ({"task": "extract", "spans": ((0, 1),)}, "extract: works on the whole source"),
        ({"task": "lego", "spans": ((0, 1), (2, 3))}, "lego: takes one span of the source, got 2"),
        ({"task": "repaint"}, "repaint: expected at least one span of the source, got none"),
        *(
            ({"task": "repaint", "spans": spans}, "repaint: expected spans of frames .* all in the 53 of the source")
            for spans in [((-1, 5),), ((5, 5),), ((6, 5),), ((50, 54),), ((9, 12), (3, 5)), ((3, 9), (5, 12))]
        ),
        *(
            ({"task": "cover", name: value}, f"^{name}: expected 0 to 1, got {value}$")
            for name in ("strength", "start_noise")
            for value in (-0.01, 1.01, float("nan"), float("inf"))
        ),
    ],
)  # fmt: skip
def test_bad_work_is_refused_when_it_is_made(values, message):
    with pytest.raises(ValueError, match=message):
        Work(**{"source": SOURCE, **values})


@pytest.mark.parametrize(
    "region", [(-0.1, 1), (1, 1), (1.5, 0.5), (0, 2.2), (3, 4), (float("nan"), 1), (0, float("inf"))]
)
def test_a_region_outside_of_its_source_is_refused(region):
    with pytest.raises(ValueError, match=r"region: .* before its end, both in the source of 0 to 2\.1345"):
        region_frames(SOURCE, *region)


@pytest.mark.parametrize(
    ("work", "songs", "frames", "message"),
    [
        (Work("cover", SOURCE), SONGS, 50, r"the source has 53 latent frames \(2.12 s\), the song 50 \(2 s\)"),
        (Work("text2music", SOURCE, start_noise=0.5), SONGS, 50, "the source has 53 latent frames"),
        (Work("text2music+codes"), SONGS, 50, r"a song has no codes; write them first \(WriteCodes\)"),
        (Work("text2music"), [replace(SONGS[0], codes=range(9))], 50, "a song of 2 s has 10 codes, got 9"),
        (Work("text2music", strength=0.5), SONGS, 50, "strength: text2music follows no codes that it could leave"),
        (Work("text2music"), [Blueprint()], 50, "caption and lyrics are both empty"),
        (Work("cover", SOURCE), [], FRAMES, "expected 1 to 8 in a batch, got 0"),
        (Work("cover", SOURCE), [SONGS[0]] * 9, FRAMES, "expected 1 to 8 in a batch, got 9"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_network_moves(tiny_models, work, songs, frames, message):
    with pytest.raises(ValueError, match=message):
        encode_work(None, tiny_models.conditioner, songs, work, frames)


def test_length_without_a_source_is_that_of_the_songs():
    assert work_frames([replace(SONGS[0], seconds=10.2)], Work("text2music")) == 255
    with pytest.raises(ValueError, match="one length"):
        work_frames([replace(SONGS[0], seconds=10), replace(SONGS[1], seconds=20)], Work("text2music"))
    for songs in ([], [SONGS[0]] * 9):
        with pytest.raises(ValueError, match=f"expected 1 to 8 in a batch, got {len(songs)}"):
            work_frames(songs, Work("cover", SOURCE))


def test_text_that_is_too_long_is_refused_with_the_instruction_counted(tiny_models):
    with pytest.raises(ValueError, match="caption prompt has .* tokens, the model reads at most 256"):
        encode(tiny_models, Work("complete", SOURCE, ("vocals",)), [Blueprint(caption="漢" * 300)])


def test_the_source_is_left_as_it_was(tiny_models):
    source = noise_source(FRAMES)
    before = source.latents.clone()
    for name in ON_SOURCE:
        encode(tiny_models, Work(name, source, spans=((12, 25),) if TASKS[name].spans != "none" else ()))
    assert torch.equal(source.latents, before)
