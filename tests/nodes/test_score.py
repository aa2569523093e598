"""ScoreSongs and ChooseBest: scores as a direct call gives them, and rows that stay with their songs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

CAPTION, LYRICS = "calm piano", "[Verse]\nla la"


@pytest.fixture
def song(core):
    """song(score, ...) is a blueprint."""
    return lambda score=None, **fields: core("blueprint").Blueprint(**{"caption": CAPTION, "score": score, **fields})


@pytest.fixture
def choose(pack):
    """choose(blueprints, keep, latent) -> blueprints, latent, and what the node said."""

    def run(*given):
        made = pack("score").ChooseBest.execute(*given)
        return *made.args, made.ui["text"][0]

    return run


@pytest.fixture
def lm(pack, core, fake_gpu):
    """A tiny planner with 64 codes under the host's memory manager, on a card with room for everything."""
    fake_gpu(1 << 40)
    tokens, qwen3 = core("tiny.tokens"), core("qwen3.model")
    config = qwen3.Qwen3Config(tokens.planner_rows(64), 64, 128, 2, 4, 2, head_dim=16)
    torch.manual_seed(0)
    ops, runtime = pack("host.ops").casting_ops(), pack("host.runtime")
    model = qwen3.Qwen3(config, ops)
    model.load_state_dict(qwen3.Qwen3(config).state_dict())  # the host's layers are made without weights
    handle = runtime.handle(model, torch.float32, torch.device("cpu", 0), torch.device("cpu"))
    tokenizer = core("qwen3.tokenizer").Tokenizer.from_json(tokens.planner_json(64))
    return core("planner.lm").LM(handle, tokenizer, "tiny")


def test_scores_are_those_of_a_direct_call(pack, core, lm, song):
    songs = tuple(song(lyrics=LYRICS, bpm=90, codes=tuple(range(at, at + 40))) for at in range(3))
    made = pack("score").ScoreSongs.execute(lm, songs, 0.5)
    quality = core("scoring.quality")
    direct = [quality.score(core("runtime").PlainRuntime(), lm, one, None, quality.ScoreOptions(0.5)) for one in songs]
    assert [one.score for one in made.args[0]] == pytest.approx([one.total for one in direct], abs=1e-6)
    assert [replace(one, score=None) for one in made.args[0]] == list(songs)
    lines = made.ui["text"][0].splitlines()
    for number, (line, one) in enumerate(zip(lines, direct, strict=True), 1):
        assert line == (
            f"song {number}: {one.total:.4f} = caption {one.caption:.3f} (PMI {one.caption_pmi:+.4f} nats a token) · "
            f"lyrics {one.lyrics:.3f} (PMI {one.lyrics_pmi:+.4f} nats a token) · "
            f"facts {one.metadata:.3f} (bpm {dict(one.recall)['bpm']:.2f})"
        )


def test_a_planner_that_is_streamed_judges_alike(pack, lm, song, fake_gpu):
    songs = (song(lyrics=LYRICS, bpm=90, codes=tuple(range(40))),)
    whole = pack("score").ScoreSongs.execute(lm, songs, 0.5)
    fake_gpu(int(0.9 * lm.model.owner.model_size()))
    streamed = pack("score").ScoreSongs.execute(lm, songs, 0.5)
    assert pack("host.runtime").HostRuntime().loaded_share(lm.model) < 1
    assert streamed.args == whole.args and streamed.ui == whole.ui


def test_a_source_is_judged_instead_of_the_codes(pack, core, lm, song, monkeypatch):
    node, heard = pack("score"), tuple(range(20))
    monkeypatch.setattr(node, "source_codes", lambda runtime, conditioner, source: {"sound": heard}[source])
    songs = (song(codes=(1, 2, 3)), song(bpm=80))
    made = node.ScoreSongs.execute(lm, songs, 0.5, object(), "sound")
    quality = core("scoring.quality")
    options = quality.ScoreOptions(0.5)
    direct = [quality.score(core("runtime").PlainRuntime(), lm, one, heard, options).total for one in songs]
    assert [one.score for one in made.args[0]] == pytest.approx(direct, abs=1e-6)
    assert [one.codes for one in made.args[0]] == [(1, 2, 3), None]
    assert made.ui["text"][0].endswith("judged: the source (20 codes)")
    with pytest.raises(ValueError, match="source: connect the conditioner"):
        node.ScoreSongs.execute(lm, songs, 0.5, None, "sound")


def test_a_lone_source_is_refused_before_anything_runs(pack):
    check = pack("score").ScoreSongs.validate_inputs  # what is linked arrives as None, what is not does not arrive
    assert check() is True and check(conditioner=None) is True and check(source=None, conditioner=None) is True
    assert check(source=None).startswith("source: connect the conditioner of Load DiT too")


def test_what_is_no_blueprint_is_said(pack, lm, choose):
    for run in (lambda: pack("score").ScoreSongs.execute(lm, "a song", 0.5), lambda: choose("a song", 1, None)):
        with pytest.raises(TypeError, match="blueprint: expected songs on paper .* got 'a song'; connect"):
            run()


def test_the_best_come_first_and_of_equals_the_earlier(choose, song):
    songs = tuple(song(score, seed=place) for place, score in enumerate((0.2, 0.9, 0.5, 0.9)))
    kept, latent, text = choose(songs, 3, None)
    assert [one.seed for one in kept] == [1, 3, 2] and latent is None
    assert text.splitlines() == [
        "1. song 2: 0.9000, kept",
        "2. song 4: 0.9000, kept",
        "3. song 3: 0.5000, kept",
        "4. song 1: 0.2000",
    ]
    everyone, _, text = choose(songs, 8, None)
    assert [one.seed for one in everyone] == [1, 3, 2, 0] and "keep is 8, there are 4" in text


def test_songs_of_different_plans_are_pointed_out(choose, song):
    assert "different plans" in choose((song(0.1), song(0.2, lyrics="la")), 1)[2]
    assert "different plans" not in choose((song(0.1, codes=(1,)), song(0.2, codes=(2,))), 1)[2]


def test_rows_of_the_latent_follow_their_songs(choose, core, song):
    generate, schedule = core("pipelines.generate"), core("sampling.schedule")
    songs = tuple(song(score) for score in (0.3, 0.1, 0.8))
    samples, mask = torch.randn(3, 64, 50), torch.rand(3, 1, 50)
    options = schedule.resolve(schedule.SamplingOptions(), core("tasks").VARIANTS["turbo"], 3.0)
    meta = generate.SongMeta(songs, (7, 8, 9), 50, options)
    given = {"samples": samples, "noise_mask": mask, "batch_index": [4, 5, 6], "type": "audio", "acestep": meta}
    kept, latent, _ = choose(songs, 2, given)
    assert [one.score for one in kept] == [0.8, 0.3]
    assert torch.equal(latent["samples"], samples[[2, 0]]) and torch.equal(latent["noise_mask"], mask[[2, 0]])
    assert latent["batch_index"] == [6, 4] and latent["type"] == "audio"
    assert latent["acestep"] == generate.SongMeta((songs[2], songs[0]), (9, 7), 50, options)
    assert torch.equal(given["samples"], samples) and given["acestep"] is meta and len(given["batch_index"]) == 3


def test_what_is_not_one_a_song_stays_or_goes(choose, core, song):
    generate = core("pipelines.generate")
    songs, shared = (song(0.3), song(0.4)), torch.rand(1, 1, 50)
    other = generate.SongMeta(songs[:1], (1,), 50, None)
    given = {"samples": torch.zeros(2, 64, 50), "noise_mask": shared, "acestep": other, "note": "kept"}
    latent = choose(songs, 1, given)[1]
    assert latent["noise_mask"] is shared and latent["note"] == "kept" and "acestep" not in latent


def test_what_cannot_be_chosen_is_said(choose, song):
    with pytest.raises(ValueError, match=r"no score for song 2, 3 of 3; put a ScoreSongs node before"):
        choose((song(0.5), song(), song()), 1, None)
    songs = (song(0.5), song(0.6))
    with pytest.raises(ValueError, match=r"one row for each of 2 songs, got 3"):
        choose(songs, 1, {"samples": torch.zeros(3, 64, 10)})
    with pytest.raises(ValueError, match=r"expected samples of shape"):
        choose(songs, 1, {"samples": torch.zeros(2, 4, 10, 10)})
    with pytest.raises(ValueError, match=r"keep: expected 1 to 8, got 0"):
        choose(songs, 0, None)
