"""Episodes and the folder they live in: strict, atomic, appendable."""

import dataclasses
import json
import os
import threading

import numpy as np
import pytest

from gym_dream.data import Episode, EpisodeInfo, EpisodeStore, split_held_out
from gym_dream.files import load_tensors, save_tensors

ENV = {"id": "ALE/Breakout-v5", "game": "Breakout", "frame_shape": [6, 5, 3]}


def make_episode(steps=7, *, continuous=False, with_ram=False, **changes):
    rng = np.random.default_rng(steps)
    fields = {
        "frames": rng.integers(0, 256, (steps + 1, 6, 5, 3), dtype=np.uint8),
        "actions": rng.normal(size=(steps, 2)).astype(np.float32) if continuous else rng.integers(0, 4, steps),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminated": np.arange(steps) == steps - 1,
        "truncated": np.zeros(steps, np.bool_),
        "lives": np.zeros(steps, np.int32),
        "ram": rng.integers(0, 256, (steps, 128), dtype=np.uint8) if with_ram else None,
        "info": EpisodeInfo(env=ENV, seed=3, policy="scripted", in_progress=False),
    }
    return Episode(**{**fields, **changes})


def assert_same(one, other):
    for field in dataclasses.fields(Episode):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, strict=True)
        else:
            assert a == b


# Episode


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("ram", [False, True])
def test_an_episode_comes_back_as_it_was(tmp_path, continuous, ram):
    info = EpisodeInfo(env={**ENV, "noop_max": 30}, seed=2**40, policy="sb3:ü.zip", in_progress=True)
    episode = make_episode(continuous=continuous, with_ram=ram, info=info)
    episode.save(tmp_path / "x.safetensors")
    assert len(episode) == 7
    assert_same(Episode.load(tmp_path / "x.safetensors"), episode)


def test_how_a_game_was_begun_comes_back_and_is_not_written_where_it_began_by_itself(tmp_path):
    for start, version, more in (("", "1", set()), ("last_bricks=3", "2", {"start"})):
        episode = make_episode(info=EpisodeInfo(ENV, seed=1, policy="random", start=start))
        episode.save(tmp_path / "x.safetensors")
        assert_same(Episode.load(tmp_path / "x.safetensors"), episode)
        _, metadata = load_tensors(tmp_path / "x.safetensors")
        assert set(metadata) == {"format", "version", "env", "seed", "policy", "in_progress"} | more
        assert metadata["version"] == version


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"frames": np.zeros((8, 6, 5, 3), np.float32)},
            r"frames must be uint8 of shape \(T \+ 1, H, W, C\), got float32",
        ),
        ({"frames": np.zeros((8, 6, 5), np.uint8)}, r"frames must be .* of shape \(8, 6, 5\)"),
        ({"frames": np.zeros((1, 6, 5, 3), np.uint8)}, "at least one step"),
        ({"frames": np.zeros((8, 0, 5, 3), np.uint8)}, "no empty axis"),
        (
            {"frames": np.zeros((7, 6, 5, 3), np.uint8)},
            r"actions must be int64 of shape \(6,\), got int64 of shape \(7,\)",
        ),
        ({"actions": np.zeros(7, np.int32)}, r"actions must be int64 of shape \(7,\), got int32"),
        ({"actions": np.zeros((7, 2), np.float64)}, r"actions must be float32 of shape \(7, A\), got float64"),
        ({"actions": np.zeros((7, 2, 2), np.float32)}, "actions must be"),
        ({"rewards": np.zeros(7)}, r"rewards must be float32 of shape \(7,\), got float64"),
        ({"rewards": np.zeros((7, 1), np.float32)}, "rewards must be"),
        ({"terminated": np.zeros(7, np.uint8)}, "terminated must be bool"),
        ({"truncated": np.zeros(8, np.bool_)}, "truncated must be bool"),
        ({"truncated": np.arange(7) == 4}, "only its last step can be truncated; step 4 of 7 is"),
        ({"lives": np.zeros(7, np.int64)}, "lives must be int32"),
        ({"ram": np.zeros((7, 64), np.uint8)}, r"ram must be uint8 of shape \(7, 128\), got uint8 of shape \(7, 64\)"),
    ],
)
def test_unsound_arrays(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_episode(**changes)

    path = tmp_path / "x.safetensors"  # the same in a file, which is named then
    make_episode().save(path)
    tensors, metadata = load_tensors(path)
    save_tensors(path, {**tensors, **changes}, metadata)
    with pytest.raises(ValueError, match=r"x\.safetensors is not a sound episode: .*" + message):
        Episode.load(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors, metadata: tensors.pop("lives"), "misses 'lives'"),
        (lambda tensors, metadata: tensors.update(extra=np.zeros(3)), "'extra' that should not be there"),
        (lambda tensors, metadata: metadata.clear(), "expected a file of format 'gym_dream.episode'.* says None"),
        (lambda tensors, metadata: metadata.update(format="gym_dream.contexts"), "says 'gym_dream.contexts'"),
        (
            lambda tensors, metadata: metadata.update(version="3"),
            "up to version 2, the file says '3'. Update gym_dream",
        ),
        (lambda tensors, metadata: metadata.update(version="one"), "the file says 'one'"),
        (lambda tensors, metadata: metadata.update(more="x"), r"unknown \['more'\]"),
        (lambda tensors, metadata: metadata.pop("seed"), r"missing \['seed'\]"),
        (lambda tensors, metadata: metadata.update(env="{"), "not JSON"),
        (lambda tensors, metadata: metadata.update(env="[]"), "env to be a JSON object"),
        (lambda tensors, metadata: metadata.update(seed="1.5"), "seed an integer"),
        (lambda tensors, metadata: metadata.update(in_progress="0"), "in_progress true or false"),
    ],
)
def test_unsound_files(tmp_path, damage, message):
    path = tmp_path / "x.safetensors"
    make_episode().save(path)
    tensors, metadata = load_tensors(path)
    damage(tensors, metadata)
    save_tensors(path, tensors, metadata)
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{message}"):
        Episode.load(path)


def test_an_environment_that_json_cannot_hold_costs_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    episode = make_episode()
    episode.save(path)
    unsound = dataclasses.replace(episode, info=EpisodeInfo({"noise": np.float32(1)}, 0, "random"))
    with pytest.raises(TypeError):
        unsound.save(path)
    assert_same(Episode.load(path), episode)


@pytest.mark.parametrize(
    ("terminated", "truncated", "lives", "in_progress", "over"),
    [
        (True, False, 0, False, True),
        (True, False, 3, False, True),  # some games end with lives left
        (True, False, 3, True, False),  # a lost life, and the game goes on
        (False, True, 3, False, False),
        (True, True, 3, False, False),  # cut off just as a life was lost
        (True, True, 0, False, True),
        (False, False, 0, True, False),
    ],
)
def test_game_over(terminated, truncated, lives, in_progress, over):
    last = np.arange(7) == 6
    episode = make_episode(
        terminated=last & terminated,
        truncated=last & truncated,
        lives=np.full(7, lives, np.int32),
        info=EpisodeInfo(ENV, 0, "random", in_progress),
    )
    assert episode.game_over is over


# Store


def test_store_appends_in_order(tmp_path):
    store = EpisodeStore(tmp_path / "new" / "data")
    assert (len(store), store.paths, store.num_steps, store.env) == (0, [], 0, None)
    episodes = [make_episode(steps) for steps in (7, 3, 5)]
    paths = [store.add(episode) for episode in episodes[:2]]
    again = EpisodeStore(store.folder)
    paths.append(again.add(episodes[2]))
    assert [path.name for path in paths] == [f"episode_00000{i}.safetensors" for i in range(3)]
    assert again.paths == store.paths == paths
    assert len(store) == store.next_number == 3
    assert store.num_steps == 15
    assert store.env == ENV
    for loaded, episode in zip(store.load_all(), episodes, strict=True):
        assert_same(loaded, episode)


def test_store_ignores_other_files_and_never_reuses_a_number(tmp_path):
    store = EpisodeStore(tmp_path)
    (tmp_path / ".episode_000007.safetensors.1.abcd.tmp").write_bytes(b"unfinished")
    (tmp_path / "notes.txt").write_text("")
    make_episode().save(tmp_path / "episode_999999.safetensors")
    added = store.add(make_episode())
    assert added.name == "episode_1000000.safetensors"
    assert [path.name for path in store.paths] == ["episode_999999.safetensors", "episode_1000000.safetensors"]


def test_a_game_that_goes_on_is_written_again_in_place(tmp_path):
    store = EpisodeStore(tmp_path)
    path = store.add(make_episode(3))
    make_episode(9).save(path)
    assert store.num_steps == 9


def test_two_writers_lose_nothing(tmp_path):
    def add(first):
        for steps in range(first, first + 40, 2):
            EpisodeStore(tmp_path).add(make_episode(steps))

    threads = [threading.Thread(target=add, args=(first,)) for first in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = EpisodeStore(tmp_path)
    assert sorted(len(episode) for episode in store.load_all()) == list(range(1, 41))
    assert len(os.listdir(tmp_path)) == 40


def test_a_failing_add_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    store = EpisodeStore(tmp_path)
    store.add(make_episode())

    def full(source, target):
        raise OSError(28, "No space left on device", str(source))

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"episode_000001\.safetensors.*free some space"):
        store.add(make_episode())
    assert os.listdir(tmp_path) == ["episode_000000.safetensors"]
    assert len(store.load_all()) == 1


def test_damaged_episodes_are_named(tmp_path):
    store = EpisodeStore(tmp_path)
    store.add(make_episode())
    path = store.add(make_episode())
    path.write_bytes(path.read_bytes()[:-9])
    for read in (store.load_all, lambda: store.num_steps, lambda: store.env):
        with pytest.raises(ValueError, match=r"episode_000001\.safetensors.*cut short"):
            read()
    save_tensors(path, {"weights": np.zeros(3)})
    for read in (store.load_all, lambda: store.num_steps, lambda: store.env):
        with pytest.raises(ValueError, match=r"episode_000001\.safetensors"):
            read()


def test_different_environments_are_named(tmp_path):
    store = EpisodeStore(tmp_path)
    store.add(make_episode())
    store.add(make_episode(info=EpisodeInfo({**ENV, "game": "Pong"}, 0, "random")))
    with pytest.raises(ValueError, match=r"_000000.* and .*_000001.*: game: 'Breakout' and 'Pong'\. Keep"):
        _ = store.env


def test_no_episodes(tmp_path):
    with pytest.raises(FileNotFoundError, match="gym-dream collect"):
        EpisodeStore(tmp_path / "nothing").load_all()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="this is a file"):
        EpisodeStore(tmp_path / "file").add(make_episode())


def test_metadata_is_text_that_others_can_read(tmp_path):
    path = EpisodeStore(tmp_path).add(make_episode())
    metadata = load_tensors(path)[1]
    assert json.loads(metadata["env"]) == ENV
    assert (metadata["seed"], metadata["policy"], metadata["in_progress"]) == ("3", "scripted", "false")


# Held-out games


@pytest.mark.parametrize("count", [2, 3, 7, 40, 101])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5])
def test_split(count, fraction):
    episodes = [make_episode(1) for _ in range(count)]
    for seed in range(20):
        train, held_out = split_held_out(episodes, fraction, seed)
        assert train and held_out
        assert len(held_out) == pytest.approx(max(1, count * fraction), abs=1)
        assert sorted(map(id, train + held_out)) == sorted(map(id, episodes))
        for part in (train, held_out):
            order = [next(i for i, e in enumerate(episodes) if e is episode) for episode in part]
            assert order == sorted(order)
        again = split_held_out(episodes, fraction, seed)
        assert [[id(e) for e in part] for part in again] == [[id(e) for e in part] for part in (train, held_out)]


def test_split_depends_on_the_seed_and_holds_when_games_are_added():
    episodes = [make_episode(1) for _ in range(100)]
    number = {id(episode): i for i, episode in enumerate(episodes)}

    def held(count, seed):
        return [number[id(episode)] for episode in split_held_out(episodes[:count], 0.1, seed)[1]]

    assert held(100, 0) != held(100, 1)
    for seed in range(20):
        everything = held(100, seed)
        for count in (30, 60, 99):
            assert held(count, seed) == [i for i in everything if i < count]
        assert sum(i < 50 for i in everything) == pytest.approx(5, abs=1)  # early and late alike


def test_split_errors():
    with pytest.raises(ValueError, match="at least 2 games, got 1"):
        split_held_out([make_episode()], 0.1, 0)
    for fraction in (0.0, -0.1, 0.6, float("nan")):
        with pytest.raises(ValueError, match=r"above 0 and at most 0\.5"):
            split_held_out([make_episode()] * 4, fraction, 0)
