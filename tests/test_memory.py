"""What is kept in memory: of recorded play while fitting, and of dreams."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from gym_dream import Dream
from gym_dream.data import Episode, EpisodeInfo, EpisodeStore, SegmentSampler
from gym_dream.trainers import run
from gym_dream.trainers.fit import Fit
from gym_dream.trainers.presets import PRESETS, Preset

SIDE = 64
GAMES, STEPS = 4, 800  # 39 MB of frames
PER_STEP = 1.4e9 / 100_000
"""The bytes that a step of play, with its frame of 64 x 64 x 3, may take in memory."""


def play(seed: int, steps: int = STEPS) -> Episode:
    rng = np.random.default_rng(seed)
    ends = np.arange(1, steps + 1) % 200 == 0
    return Episode(
        frames=rng.integers(0, 256, (steps + 1, SIDE, SIDE, 3), dtype=np.uint8),
        actions=rng.integers(0, 4, steps),
        rewards=np.zeros(steps, np.float32),
        terminated=ends,
        truncated=np.zeros(steps, np.bool_),
        lives=np.zeros(steps, np.int32),
        ram=rng.integers(0, 256, (steps, 128), dtype=np.uint8),
        info=EpisodeInfo(env=tiny.ENV | {"frame_shape": [SIDE, SIDE, 3]}, seed=seed, policy="random"),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    store = EpisodeStore(tmp_path_factory.mktemp("data"))
    for seed in range(GAMES):
        store.add(play(seed))
    return store


# Recorded play


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_play_takes_no_memory_of_its_own(store):
    program = Path(__file__).with_name("mapped_play.py")
    done = subprocess.run([sys.executable, program, store.folder], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["frames"] == GAMES * (STEPS + 1) * SIDE * SIDE * 3
    assert found["drawn"] < 0.2 * found["frames"]
    assert found["mapped"] == GAMES
    assert found["opened"] == 0  # a store may have more games than a process may open
    assert found["read"] > 0.8 * found["copies"] == 0.8 * found["frames"]  # it does see what is read


def test_segments_are_the_same_from_disk(store):
    one, other = (SegmentSampler(store.load_all(mapped=mapped), 6, beyond_end=True) for mapped in (True, False))
    ours, theirs = (sampler.sample(20, np.random.default_rng(3)) for sampler in (one, other))
    for name, array in vars(ours).items():
        np.testing.assert_array_equal(array, getattr(theirs, name), strict=True)


def test_a_mapped_game_and_its_file_do_not_change_each_other(tmp_path):
    path = tmp_path / "game.safetensors"
    episode = play(0, steps=20)
    episode.save(path)
    before = path.read_bytes()
    mapped = Episode.load(path, mapped=True)
    mapped.frames[3] = 7
    mapped.rewards[:] = 1
    assert path.read_bytes() == before
    play(1, steps=30).save(path)  # as a game that goes on is written again
    np.testing.assert_array_equal(mapped.frames[4:], episode.frames[4:])
    path.unlink()
    np.testing.assert_array_equal(mapped.frames[4:], episode.frames[4:])


@pytest.mark.parametrize("left", [0.5, 0.001])
def test_a_game_cut_short_is_not_mapped(store, tmp_path, left):
    path = tmp_path / "game.safetensors"
    whole = store.paths[0].read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(ValueError, match="cut short"):
        Episode.load(path, mapped=True)


@pytest.fixture
def fit_of(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Episode]], Fit]:
    def make(episodes: list[Episode]) -> Fit:
        monkeypatch.setitem(PRESETS, "tiny", Preset(tiny.config, tiny.PRESET.training))
        config = run._new_config(store.folder, "tiny", None, {"event_share": 0.5}, 0.06, seed=0)
        return Fit(config, episodes, torch.device("cpu"), torch.float32, False)

    return make


def test_a_run_leaves_play_on_disk(store, monkeypatch, tmp_path, fit_of):
    made = []
    init = Fit.__init__

    def spy(self: Fit, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Fit, "__init__", spy)
    fit_of(store.load_all())
    tiny.fit(tmp_path / "run", store.folder, steps=1)
    for fit, expected in zip(made, (False, True), strict=True):
        owner: Any = fit.play.frames.spans._frames[0]
        while isinstance(owner, np.ndarray):
            owner = owner.base
        assert isinstance(owner, Tensor) == expected  # which maps the file


def test_a_fit_in_memory_keeps_every_frame_once(store, fit_of):
    """100,000 steps must fit into 1.4 GB, all that the samplers know of them included."""
    fit = fit_of(store.load_all())
    samplers = fit.play.frames, fit.play.rewards, fit.held_out_play.frames, fit.held_out_play.rewards
    taken = sum(storages([samplers, fit.held_out]).values())
    assert GAMES * STEPS * SIDE * SIDE * 3 < taken < GAMES * STEPS * PER_STEP


# Dreams


@pytest.mark.parametrize("num_dreams", [8, 1024])
def test_dreams_keep_their_state_and_nothing_else(num_dreams):
    model = tiny.world_model()
    dream = Dream(model, num_dreams, model.starts, horizon=5, seed=0)
    rng = np.random.default_rng(0)
    length, lstm_size = model.config.denoiser.context_length, model.config.reward_termination.lstm_size
    frame = tiny.SIDE * tiny.SIDE * 3
    # Frames, actions (and room for the next), which frames are real, the two halves of the LSTM's memory; the picture
    # shown; seed and position.
    state = length * frame + 8 * length + length + 2 * 4 * lstm_size
    allowed = num_dreams * (state + frame + 2 * 8) + 64  # whatever the number of dreams: the sampler's noise levels
    mask = np.zeros(num_dreams, np.bool_)
    mask[::3] = True

    networks = dream.dynamics.denoiser, dream.dynamics.reward_termination
    weights = [[*network.parameters(), *network.buffers()] for network in networks]

    def kept() -> int:
        others = storages([weights, model.starts])
        return sum(size for place, size in storages(dream).items() if place not in others)

    dream.reset()
    assert allowed - num_dreams * (frame + 8 * length) <= kept() <= allowed
    for step in range(3 if num_dreams > 100 else 12):
        dream.step(rng.integers(0, 4, num_dreams))
        if step % 3 == 1:
            dream.reset(mask)
        assert num_dreams * frame * (length + 1) < kept() <= allowed


def test_what_is_kept_is_counted():
    """The measure itself: views count with all that they keep, and what hides in closures and objects is found."""

    class Hiding:
        def __init__(self) -> None:
            base = torch.zeros(100, dtype=torch.uint8)
            self.view = base[:1]
            array = np.zeros(1000, np.uint8)
            self.function = lambda: array
            self.twice = {"a": [base], "b": (base[5:],)}

    assert sum(storages(Hiding()).values()) == 1100


def storages(root: Any) -> dict[int, int]:
    """The memory of all tensors and arrays that can be reached from an object: address -> bytes."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    pending = [root]
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, (ModuleType, type)):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, np.ndarray):
            while isinstance(thing.base, np.ndarray):
                thing = thing.base
            found[thing.ctypes.data] = thing.nbytes
        pending += _inside(thing)
    found.pop(0, None)
    return found


def _inside(thing: Any) -> Iterator[Any]:
    if isinstance(thing, FunctionType):  # whose globals are the whole program
        return iter([thing.__closure__, thing.__defaults__])
    return iter(gc.get_referents(thing))
