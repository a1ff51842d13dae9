"""A batch of dreams on tensors: the only place where a dream advances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import Space
from gymnasium.error import InvalidAction, ResetNeeded
from torch import Tensor

from gym_dream.actions import check_actions
from gym_dream.data.contexts import Contexts
from gym_dream.dynamics import ContextTensors, DreamModel, Dynamics
from gym_dream.noise import WORD, RowNoise
from gym_dream.state import named_tensors, put_rows, with_tensors


class ContextSource(Protocol):
    """Where dreams begin: a fixed set (`Contexts`) or a sampler over recorded play (`ContextSampler`)."""

    def sample(self, count: int, rng: np.random.Generator) -> Contexts:
        """Draw contexts; the generator's state fixes which."""


@dataclass(frozen=True)
class DreamReset:
    """What `Dream.reset` returns."""

    observation: Tensor
    """uint8 (B, H, W, C): the current frame of every dream, reset or not."""
    reset: Tensor
    """bool (B,): which dreams were reset."""
    context: ContextTensors
    """What those began from, in their order; the last frame is their observation."""


@dataclass(frozen=True)
class DreamStep:
    """What `Dream.step` returns."""

    observation: Tensor
    """uint8 (B, H, W, C)."""
    reward: Tensor
    """float32 (B,)."""
    terminated: Tensor
    """bool (B,)."""
    truncated: Tensor
    """bool (B,): the horizon is reached."""


class Dream:
    """A batch of dreams of one world model.

    Nothing is reset by itself: after an ending a dream simply goes on, until `reset` is called with it in the mask.
    Each dream draws from a stream of its own: its k-th game after seeding has the same context and the same noise
    whatever its neighbours, their number and its own earlier games were.

    Example:
        >>> dream = Dream(world_model, num_dreams=32, contexts=world_model.starts, horizon=15, seed=0)
        >>> observation = dream.reset().observation
        >>> step = dream.step(actions)
        >>> ended = step.terminated | step.truncated
        >>> observation = dream.reset(ended).observation if ended.any() else step.observation

    Attributes:
        dynamics: what dreams.
        num_dreams: the batch size, B.
        contexts: where dreams begin.
        horizon: steps until a dream is truncated; -1 for never.
        observation: uint8 (B, H, W, C), the current frames; None before the first reset.
    """

    def __init__(
        self,
        model: DreamModel | Dynamics[Any],
        num_dreams: int,
        contexts: ContextSource,
        *,
        horizon: int = -1,
        seed: int | Sequence[int] | None = None,
    ) -> None:
        """Open the dreams; the first `reset` begins them.

        Args:
            model: a dynamics, or a world model (its dynamics are then made with their default settings).
            num_dreams: the batch size.
            contexts: where dreams begin.
            horizon: steps until a dream is truncated; -1 for never.
            seed: dream i gets ``seed + i``, or ``seed[i]``; None takes fresh entropy.

        Raises:
            ValueError: a number of dreams, horizon or seed that cannot be.
        """
        if num_dreams < 1:
            raise ValueError(f"num_dreams must be at least 1, got {num_dreams}.")
        if horizon != -1 and horizon < 1:
            raise ValueError(f"The horizon must be at least 1 step, or -1 for none; got {horizon}.")
        self.dynamics: Dynamics[Any] = model.dynamics() if isinstance(model, DreamModel) else model
        self.num_dreams = num_dreams
        self.contexts = contexts
        self.horizon = horizon
        self.observation: Tensor | None = None
        self._state: Any = None
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        seeds = range(seed, seed + num_dreams) if isinstance(seed, (int, np.integer)) else seed
        # Where a dream stands in its stream: the number of its resets in the high word, the steps since in the low one.
        self._keys = self._positions = torch.zeros(num_dreams, dtype=torch.int64, device=self.dynamics.device)
        self._keys, self._positions = self._seeded(seeds, torch.ones_like(self._keys, dtype=torch.bool))
        self._action_dtype = torch.from_numpy(np.zeros(0, self.action_space.dtype)).dtype

    @property
    def action_space(self) -> Space[Any]:
        """The actions of one dream."""
        return self.dynamics.action_space

    @torch.no_grad()
    def reset(
        self,
        mask: Tensor | np.ndarray | None = None,
        *,
        seeds: Sequence[int | None] | None = None,
        contexts: Contexts | None = None,
    ) -> DreamReset:
        """Begin dreams anew.

        Args:
            mask: bool (B,), which; all by default. The first reset must be of all.
            seeds: one for each dream of the batch; a dream without one goes on in its stream, as do all by default.
            contexts: one for each dream of the batch, for this reset only, instead of draws from `self.contexts`.

        Raises:
            gymnasium.error.ResetNeeded: the first reset is not of all dreams.
            ValueError: mask, seeds or contexts do not fit the batch or the dynamics.
            gymnasium.error.InvalidAction: an action of the contexts is not in the action space.
        """
        chosen = self._chosen(mask)
        if self._state is None and not chosen.all():
            raise ResetNeeded("The first reset must be of all dreams: call reset() without a mask.")
        keys, positions = (self._keys, self._positions) if seeds is None else self._seeded(seeds, chosen)
        positions = torch.where(chosen, ((positions >> 32) + 1) << 32, positions)
        rows = chosen.nonzero()[:, 0]
        noise = RowNoise(keys[rows], positions[rows])
        if contexts is None:
            contexts = self._draw(noise)
        elif len(contexts) == self.num_dreams:
            contexts = contexts[rows.cpu().numpy()]
            taken = contexts.actions[contexts.real[:, :-1]]  # the others are padding
            check_actions(self.action_space, taken, len(taken))
        else:
            raise ValueError(f"Expected a context for each of the {self.num_dreams} dreams, got {len(contexts)}.")
        context = self._tensors(contexts)
        state = self.dynamics.begin(context, noise)
        if self._state is None or self.observation is None:
            self._state, self.observation = state, context.frames[:, -1]
        else:
            self._state = put_rows(self._state, rows, state)
            self.observation = self.observation.index_copy(0, rows, context.frames[:, -1])
        self._keys, self._positions = keys, positions
        return DreamReset(self.observation, chosen, context)

    @torch.no_grad()
    def step(self, actions: Tensor | np.ndarray) -> DreamStep:
        """Every dream takes one action.

        Args:
            actions: (B, …) of `action_space`. Values are checked unless they lie on an accelerator, which would have to
                be waited for.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
            gymnasium.error.InvalidAction: wrong shape or type, or a value that is not in the action space.
        """
        if self._state is None:
            raise ResetNeeded("A dream begins with reset(): call it before step().")
        positions = self._positions + 1
        noise = RowNoise(self._keys, positions)
        state, observation, reward, terminated = self.dynamics.step(self._state, self._actions(actions), noise)
        self._state, self.observation, self._positions = state, observation, positions
        truncated = ((positions & WORD) >= self.horizon) & (self.horizon > 0)
        return DreamStep(observation, reward, terminated, truncated)

    def tensors(self) -> dict[str, Tensor]:
        """All that the dreams go on from, by name: what their model remembers, what is seen, and their random streams.

        Not among it are the model, the contexts and the horizon, which are the caller's.
        """
        tensors = {"keys": self._keys, "positions": self._positions}
        if self.observation is not None:
            tensors |= {"observation": self.observation} | dict(named_tensors(self._state, "state"))
        return tensors

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave, as if never stopped (on a CPU, to the bit).

        Raises:
            ValueError: a tensor is missing, unknown, or of another type or shape: they are those of another number of
                dreams or of another kind of model. The dreams are left as they were.
        """
        expected = {"keys": self._keys, "positions": self._positions}
        state = None
        if "observation" in tensors:
            # Only the dynamics know what their states are made of, so they are asked for one; nobody's stream is used.
            context = self._tensors(self.contexts.sample(1, np.random.default_rng(0)))
            state = self.dynamics.begin(context, RowNoise(self._keys[:1], torch.zeros_like(self._keys[:1])))
            of_one = {"observation": context.frames[:, -1]} | dict(named_tensors(state, "state"))
            expected |= {name: tensor.expand(self.num_dreams, *tensor.shape[1:]) for name, tensor in of_one.items()}
        if different := sorted(expected.keys() ^ tensors.keys()):
            raise ValueError(f"These are not the tensors of such dreams: {', '.join(different)} missing or unknown.")
        for name, like in expected.items():
            given = tensors[name]
            if (given.dtype, given.shape) != (like.dtype, like.shape):
                raise ValueError(
                    f"These are not the tensors of such dreams: {name} is {given.dtype} of shape {tuple(given.shape)}, "
                    f"expected {like.dtype} of shape {tuple(like.shape)}."
                )
        moved = {name: tensor.to(self.dynamics.device, copy=True) for name, tensor in tensors.items()}
        self._keys, self._positions = moved["keys"], moved["positions"]
        self.observation = moved.get("observation")
        self._state = None if state is None else with_tensors(state, "state", moved)

    def _seeded(self, seeds: Sequence[int | None], chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and positions, with the chosen dreams that are given a seed put at the beginning of its stream."""
        if len(seeds) != self.num_dreams:
            raise ValueError(f"Expected a seed for each of the {self.num_dreams} dreams, got {len(seeds)}.")
        picked = chosen.tolist()
        given = {row: stream_key(seed) for row, seed in enumerate(seeds) if picked[row] and seed is not None}
        rows = torch.tensor(list(given), dtype=torch.int64, device=self._keys.device)
        keys = torch.tensor(list(given.values()), dtype=torch.int64, device=self._keys.device)
        return self._keys.index_copy(0, rows, keys), self._positions.index_fill(0, rows, 0)

    def _chosen(self, mask: Tensor | np.ndarray | None) -> Tensor:
        if mask is None:
            return torch.ones(self.num_dreams, dtype=torch.bool, device=self.dynamics.device)
        chosen = torch.as_tensor(mask, device=self.dynamics.device)
        if chosen.dtype != torch.bool or chosen.shape != (self.num_dreams,) or not chosen.any():
            raise ValueError(
                f"The mask must be bool of shape ({self.num_dreams},) with at least one dream to reset, got "
                f"{chosen.dtype} of shape {tuple(chosen.shape)}, {int(chosen.count_nonzero())} of them set."
            )
        return chosen

    def _draw(self, noise: RowNoise) -> Contexts:
        """One context a row, chosen by the row's own stream."""
        generators = [np.random.default_rng(words) for words in noise.words(4).tolist()]
        drawn = [self.contexts.sample(1, generator) for generator in generators]
        return Contexts(
            frames=np.concatenate([context.frames for context in drawn]),
            actions=np.concatenate([context.actions for context in drawn]),
            real=np.concatenate([context.real for context in drawn]),
        )

    def _tensors(self, contexts: Contexts) -> ContextTensors:
        expected = (self.dynamics.context_length, *self.dynamics.frame_shape)
        if contexts.frames.shape[1:] != expected:
            raise ValueError(
                f"This model begins from frames of shape {expected} (context length, height, width, channels), got "
                f"contexts of shape {contexts.frames.shape[1:]}."
            )
        arrays = (contexts.frames, contexts.actions, contexts.real)
        return ContextTensors(*(torch.as_tensor(array, device=self.dynamics.device) for array in arrays))

    def _actions(self, actions: Tensor | np.ndarray) -> Tensor:
        if isinstance(actions, Tensor) and actions.device.type != "cpu":
            expected = (self.num_dreams, *(self.action_space.shape or ()))
            if actions.shape != expected or not torch.can_cast(actions.dtype, self._action_dtype):
                raise InvalidAction(
                    f"Expected actions of {self.action_space}, of shape {expected} and type {self._action_dtype}; got "
                    f"shape {tuple(actions.shape)} and type {actions.dtype}."
                )
            return actions.to(self._action_dtype, copy=True)
        return torch.tensor(check_actions(self.action_space, actions, self.num_dreams), device=self.dynamics.device)


def stream_key(seed: int) -> int:
    """The 64-bit key of a stream, int64; neighbouring seeds of any size give unrelated keys."""
    if seed < 0:
        raise ValueError(f"Seeds must not be negative, got {seed}.")
    return int(np.random.SeedSequence(int(seed)).generate_state(1, np.uint64).view(np.int64)[0])
