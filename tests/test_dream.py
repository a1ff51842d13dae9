from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fakes import END, FRAME_SHAPE, LENGTH, FakeDynamics, FakeWorldModel, contexts
from gymnasium import Space
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from gym_dream.data.contexts import Contexts
from gym_dream.dream import Dream, DreamStep
from gym_dream.state import put_rows


def open_dream(num_dreams: int = 4, *, horizon: int = -1, seed: int | list[int] | None = 0) -> Dream:
    return Dream(FakeDynamics(), num_dreams, contexts(20), horizon=horizon, seed=seed)


def play(dream: Dream, steps: int, action: int = 0) -> list[DreamStep]:
    return [dream.step(np.full(dream.num_dreams, action)) for _ in range(steps)]


def test_a_world_model_dreams_with_its_default_dynamics() -> None:
    dream = Dream(FakeWorldModel(), 2, contexts(3))
    assert dream.reset().observation.shape == (2, *FRAME_SHAPE)


def test_a_dream_begins_with_the_last_frame_of_its_context() -> None:
    dream = open_dream()
    reset = dream.reset()
    assert reset.reset.tolist() == [True] * 4
    assert reset.context.frames.shape == (4, LENGTH, *FRAME_SHAPE)
    assert torch.equal(reset.observation, reset.context.frames[:, -1])
    assert reset.observation.dtype == torch.uint8


def test_step_returns_what_the_dynamics_say() -> None:
    dream = open_dream()
    dream.reset()
    step = dream.step(np.array([0, 1, 2, END]))
    assert step.reward.tolist() == [0, 1, -1, 0]
    assert step.terminated.tolist() == [False, False, False, True]
    assert not step.truncated.any()
    assert torch.equal(step.observation, dream.observation)


def test_an_ended_dream_goes_on() -> None:
    dream = open_dream(1)
    dream.reset()
    steps = play(dream, 5, action=END)
    assert all(step.terminated.item() for step in steps)
    assert ("begin", 1) not in dream.dynamics.calls[1:]


def test_resetting_some_leaves_the_others_alone() -> None:
    dream, reference = open_dream(), open_dream()
    dream.reset(), reference.reset()
    play(dream, 3), play(reference, 3)
    mask = np.array([False, True, False, True])
    reset = dream.reset(mask)
    assert reset.reset.tolist() == mask.tolist()
    assert len(reset.context) == 2
    assert torch.equal(reset.observation[mask], reset.context.frames[:, -1])
    assert torch.equal(reset.observation[~mask], reference.observation[~mask])
    step, untouched = play(dream, 1)[0], play(reference, 1)[0]
    assert torch.equal(step.observation[~mask], untouched.observation[~mask])
    assert not torch.equal(step.observation[mask], untouched.observation[mask])


def test_the_horizon_truncates_and_counts_from_the_reset() -> None:
    dream = open_dream(2, horizon=3)
    dream.reset()
    truncated = [step.truncated.tolist() for step in play(dream, 2)]
    dream.reset(torch.tensor([True, False]))
    truncated += [step.truncated.tolist() for step in play(dream, 3)]
    assert truncated == [[False, False]] * 2 + [[False, True], [False, True], [True, True]]


def test_the_same_seed_dreams_the_same_alone_or_among_others() -> None:
    batch = open_dream(5, seed=40)
    batch.reset()
    batch_steps = play(batch, 4)
    for i in range(5):
        alone = open_dream(1, seed=[40 + i])
        assert torch.equal(alone.reset().context.frames[0], batch.reset(seeds=range(40, 45)).context.frames[i])
        for step, batch_step in zip(play(alone, 4), batch_steps, strict=True):
            assert torch.equal(step.observation[0], batch_step.observation[i])


def test_without_a_seed_the_stream_goes_on_and_never_repeats() -> None:
    dream = open_dream(1)
    games = []
    for _ in range(3):
        dream.reset()
        games.append(torch.stack([step.observation for step in play(dream, 3)])[:, 0, 0, 0, 0])
    assert not torch.equal(games[0], games[1]) and not torch.equal(games[1], games[2])
    dream.reset(seeds=[0])
    assert torch.equal(torch.stack([step.observation for step in play(dream, 3)])[:, 0, 0, 0, 0], games[0])


def test_a_dreams_next_game_is_the_same_however_long_the_last_one_was() -> None:
    short, long = open_dream(2), open_dream(2)
    short.reset(), long.reset()
    play(short, 1), play(long, 9)
    assert torch.equal(short.reset().context.frames, long.reset().context.frames)
    assert torch.equal(play(short, 1)[0].observation, play(long, 1)[0].observation)


def test_fresh_dreams_differ() -> None:
    first, second = open_dream(8, seed=None), open_dream(8, seed=None)
    assert not torch.equal(first.reset().observation, second.reset().observation)


def test_any_sampler_may_supply_contexts() -> None:
    class Sampler:
        def sample(self, count: int, rng: np.random.Generator) -> Contexts:
            return contexts(20)[rng.integers(20, size=count)]

    dream, fixed = Dream(FakeDynamics(), 3, Sampler(), seed=0), open_dream(3)
    assert torch.equal(dream.reset().observation, fixed.reset().observation)


def test_contexts_can_be_given_for_one_reset() -> None:
    dream, given = open_dream(3), contexts(3)
    dream.reset()
    reset = dream.reset(np.array([True, False, True]), contexts=given)
    assert reset.observation[:, 9, 9, 0][[0, 2]].tolist() == [5, 25]
    given.frames[:] = 255  # the dream keeps no view of them
    assert reset.observation[0, 9, 9, 0] == 5
    assert dream.reset(seeds=[0, 1, 2]).observation.eq(open_dream(3).reset().observation).all()


def test_what_was_returned_is_never_written_to() -> None:
    dream = open_dream(horizon=4)
    kept = [dream.reset().observation] + [step.observation for step in play(dream, 3)]
    copies = [observation.clone() for observation in kept]
    dream.reset(np.array([True, False, False, True])), play(dream, 3)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_a_refused_call_changes_nothing() -> None:
    dream, reference = open_dream(2), open_dream(2)
    dream.reset(), reference.reset()
    for refused in (
        lambda: dream.step(np.array([0, 9])),
        lambda: dream.reset(seeds=[5, 6], contexts=contexts(7)),
        lambda: dream.reset(np.array([False, False])),
    ):
        with pytest.raises((InvalidAction, ValueError)):
            refused()
    assert torch.equal(play(dream, 1)[0].observation, play(reference, 1)[0].observation)


def test_put_rows_merges_nested_states() -> None:
    class Pair(NamedTuple):
        a: Tensor
        b: Tensor

    @dataclass(frozen=True)
    class State:
        grid: Tensor
        pair: Pair

    old = State(torch.zeros(3, 2), Pair(torch.zeros(3), torch.zeros(3, 1)))
    new = State(torch.ones(1, 2), Pair(torch.ones(1), torch.ones(1, 1)))
    merged = put_rows(old, torch.tensor([1]), new)
    assert merged.grid.sum(dim=1).tolist() == [0, 2, 0]
    assert merged.pair.a.tolist() == [0, 1, 0] and merged.pair.b.flatten().tolist() == [0, 1, 0]
    assert not old.grid.any()


def test_a_dream_must_be_reset_first() -> None:
    dream = open_dream(2)
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        dream.step(np.zeros(2, np.int64))
    with pytest.raises(ResetNeeded, match="first reset must be of all"):
        dream.reset(np.array([True, False]))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, 4]), r"Discrete\(4\), got 4 \(row 1 of 2\)"),
        (np.array([-1, 0]), "got -1"),
        (np.array([0]), r"shape \(2,\).*got shape \(1,\)"),
        (np.array([[0], [1]]), r"got shape \(2, 1\)"),
        (np.array([0.0, 1.0]), "got shape .* type float64"),
        (torch.tensor([0, 7]), "got 7"),
    ],
)
def test_impossible_actions_are_refused(actions: np.ndarray | Tensor, message: str) -> None:
    dream = open_dream(2)
    dream.reset()
    with pytest.raises(InvalidAction, match=message):
        dream.step(actions)


def test_continuous_actions_are_checked_too() -> None:
    dream = Dream(FakeDynamics(action_space=Box(-1, 1, (2,), np.float32)), 3, contexts(3))
    dream.reset()
    with pytest.raises(InvalidAction, match="row 2 of 3"):
        dream.step(np.array([[0, 0], [1, -1], [0, np.nan]], np.float32))


SHORT = Contexts(np.zeros((2, 1, *FRAME_SHAPE), np.uint8), np.zeros((2, 0), np.int64), np.ones((2, 1), np.bool_))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.array([True])}, r"bool of shape \(2,\)"),
        ({"mask": np.array([1, 0])}, "got torch.int64"),
        ({"mask": np.array([False, False])}, "at least one"),
        ({"seeds": [1]}, "each of the 2 dreams, got 1"),
        ({"seeds": [1, -1]}, "not be negative, got -1"),
        ({"contexts": contexts(3)}, "each of the 2 dreams, got 3"),
        ({"contexts": SHORT}, r"begins from frames of shape \(3, 40, 48, 3\).*got contexts of shape \(1, 40, 48, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict, message: str) -> None:
    dream = open_dream(2)
    dream.reset()
    with pytest.raises(ValueError, match=message):
        dream.reset(**arguments)


def test_contexts_hold_actions_of_the_space() -> None:
    dream, given = open_dream(3), contexts(3)
    before = dream.reset().observation
    given.actions[1, 0] = 99
    with pytest.raises(InvalidAction, match=r"99 \(row"):
        dream.reset(contexts=given)
    assert torch.equal(dream.observation, before)
    dream.reset(np.array([True, False, True]), contexts=given)  # of the others nothing is taken
    given.actions[1, 0] = 0
    given.real[1, 0] = False
    padded = Dream(FakeDynamics(action_space=Discrete(4, start=1)), 3, contexts(3))
    begun = Contexts(given.frames, np.where(given.real[:, :-1], given.actions % 3 + 1, 0), given.real)
    padded.reset(contexts=begun)  # padding is no action


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (Discrete(4), (torch.int64, torch.int32), (torch.float32,)),
        (Box(-1, 1, (2,), np.float32), (torch.float32, torch.int64), ()),
    ],
)
def test_actions_on_an_accelerator_are_told_by_shape_and_type(space: Space, good: tuple, bad: tuple) -> None:
    """Their values are not looked at; "meta" stands for an accelerator, as it has none to look at."""
    dream, shape = Dream(FakeDynamics(action_space=space), 3, contexts(3)), (3, *(space.shape or ()))
    for dtype in good:
        taken = dream._actions(torch.zeros(shape, dtype=dtype, device="meta"))
        assert taken.dtype == {"i": torch.int64, "f": torch.float32}[space.dtype.kind]
    wrong = [torch.zeros(shape, dtype=dtype, device="meta") for dtype in bad]
    for actions in (*wrong, torch.zeros((4, *shape[1:]), dtype=good[0], device="meta")):
        with pytest.raises(InvalidAction, match="Expected actions of"):
            dream._actions(actions)


def test_impossible_dreams_are_refused() -> None:
    with pytest.raises(ValueError, match="num_dreams must be at least 1, got 0"):
        open_dream(0)
    with pytest.raises(ValueError, match="horizon must be at least 1 step, or -1 for none; got 0"):
        open_dream(horizon=0)
    with pytest.raises(ValueError, match="each of the 4 dreams, got 2"):
        open_dream(4, seed=[1, 2])


def test_dreams_go_on_from_their_tensors_to_the_bit() -> None:
    dream = open_dream(horizon=6)
    dream.reset()
    play(dream, 3)
    dream.reset(np.array([True, False, False, True]))
    play(dream, 2)
    kept = {name: tensor.clone() for name, tensor in dream.tensors().items()}
    assert {"keys", "positions", "observation", "state.frame", "state.memory.steps", "state.memory.noise"} == set(kept)
    other = open_dream(horizon=6, seed=99)
    other.load_tensors(kept)
    for _ in range(2):
        for one, two in zip(play(dream, 2), play(other, 2), strict=True):
            assert torch.equal(one.observation, two.observation)
            assert torch.equal(one.truncated, two.truncated)
        mask = np.array([False, True, True, False])
        assert torch.equal(dream.reset(mask).observation, other.reset(mask).observation)
    assert torch.equal(other.tensors()["state.memory.noise"], dream.tensors()["state.memory.noise"])


def test_dreams_that_have_not_begun_have_tensors_too() -> None:
    dream, other = open_dream(), open_dream(seed=99)
    other.reset()
    other.load_tensors(dream.tensors())
    with pytest.raises(ResetNeeded):
        other.step(np.zeros(4, int))
    assert torch.equal(dream.reset().observation, other.reset().observation)
    assert torch.equal(play(dream, 1)[0].observation, play(other, 1)[0].observation)


def test_tensors_of_other_dreams_are_refused() -> None:
    dream = open_dream()
    dream.reset()
    kept = dream.tensors()
    fewer = open_dream(3)
    fewer.reset()
    before = fewer.tensors()
    for tensors, message in (
        (kept, r"keys is torch.int64 of shape \(4,\), expected torch.int64 of shape \(3,\)"),
        ({n: t[:3] for n, t in kept.items() if n != "state.frame"}, "state.frame missing or unknown"),
        ({n: t[:3] for n, t in kept.items()} | {"more": kept["keys"]}, "more missing or unknown"),
        ({n: t[:3] for n, t in kept.items()} | {"state.memory.noise": kept["keys"][:3]}, "state.memory.noise is"),
    ):
        with pytest.raises(ValueError, match=message):
            fewer.load_tensors(tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fewer.tensors().items())
