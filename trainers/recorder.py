"""The real side of the outer loop: an agent plays games one after the other, some steps at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from gym_dream.data import Contexts, Episode, EpisodeStore
from gym_dream.data.collect import prepare_store
from gym_dream.data.game import RecordedGame
from gym_dream.policy import Policy

from .processes import Processes

CATCH_UP = 32  # frames of the life at hand that an agent looks at again before it plays on


class Recorder:
    """Games recorded into a store, the one at hand kept in memory.

    What is recorded next follows from the games so far, the policy and a seed, and from nothing else: with the number
    of finished games and the actions of the one at hand, recording goes on as if never stopped. For that the
    environment must do the same again for the same seed and actions, as ALE does.

    Of several processes, each plays the same games by the first one's actions; the first writes.

    Attributes:
        finished: the games that are over, oldest first.
        game: the one at hand; None before its first step.
        signs: int64 (3,), how many steps of all games had a reward below, of and above zero.
    """

    def __init__(
        self,
        env: gym.Env[np.ndarray, Any],
        spec: dict[str, Any],
        store: EpisodeStore,
        seed: int,
        processes: Processes,
    ) -> None:
        """Open an empty record.

        Args:
            env: the game; it ends with the game, not with a life.
            spec: what its frames and actions mean.
            store: where finished games go.
            seed: game i is played with ``seed + i``.
            processes: those that play along.
        """
        self.env, self.spec, self.store, self.seed, self.processes = env, spec, store, seed, processes
        self.finished: list[Episode] = []
        self.game: RecordedGame | None = None
        self.signs = np.zeros(3, np.int64)
        self._policy = ""

    @property
    def num_steps(self) -> int:
        """Steps of all games."""
        return sum(map(len, self.finished)) + (len(self.game) if self.game is not None else 0)

    @property
    def episodes(self) -> list[Episode]:
        """All games, oldest first, the one at hand as far as it goes."""
        at_hand = [self.game.episode(self._policy)] if self.game is not None and len(self.game) else []
        return self.finished + at_hand

    def begin(self) -> None:
        """Make sure that a new record can be written, before the first step is played.

        Raises:
            FileExistsError: there are games in the store.
            OSError: its folder cannot be made or written to.
        """
        if len(self.store):
            raise FileExistsError(
                f"{self.store.folder} already holds {len(self.store)} games, which this run would mistake for its own. "
                "Choose another --out, or move them away."
            )
        prepare_store(self.store, self.spec)

    def record(self, policy: Policy, seed: int, enough: Callable[[Recorder], bool]) -> None:
        """Play until there is enough.

        Args:
            policy: who plays. At first it catches up on the last frames of the life at hand.
            seed: of the policy.
            enough: asked after every step, and before the first.
        """
        self._policy = policy.name
        state = policy.begin(1, seed)
        if self.game is not None:
            state = policy.reset(state, np.array([True]), _context(self.game.life(CATCH_UP + 1)))
        while not enough(self):
            if self.game is None:
                self.game = RecordedGame(self.env, self.spec, self.seed + len(self.finished))
                state = policy.reset(state, np.array([True]))
            actions, state = policy.act(state, self.game.frame[None], self.game.info)
            action = torch.as_tensor(actions)
            self.processes.take_over([action])
            step = self.game.step(int(action))
            if step.life_lost or step.game_over:
                state = policy.reset(state, np.array([True]))
            self.signs[1 + int(np.sign(step.reward))] += 1
            if self.game.over:
                self._finish(self.game.episode(policy.name))

    def _finish(self, episode: Episode) -> None:
        if self.processes.first:
            self.store.add(episode)
        self.processes.wait()
        self.finished.append(self._load(len(self.finished)))
        self.game = None

    def _load(self, number: int) -> Episode:
        """Game number ``number`` of this run, from the store."""
        paths = self.store.paths
        episode = Episode.load(paths[number], mapped=True) if number < len(paths) else None
        if episode is None or episode.info.seed != self.seed + number:
            raise ValueError(
                f"{self.store.folder} lacks the game that this run played with seed {self.seed + number}, its number "
                f"{number + 1}, or holds others in its place. Put back what was there, or start a new run."
            )
        return episode

    def store_unfinished(self) -> None:
        """Write the game at hand into the store, too, as far as it goes."""
        if self.processes.first and self.game is not None:
            self.store.add(self.game.episode(self._policy))

    def position(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Counters and tensors that `restore` goes on from."""
        playing = self.game is not None
        counters = {"games": len(self.finished), "playing": int(playing), "policy": self._policy}
        if self.game is None:
            return counters, {}
        return counters | {"frame": _checksum(self.game.frame)}, {"actions": torch.from_numpy(self.game.actions)}

    def restore(self, counters: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Go on from what `position` gave: take up the finished games, play the one at hand again by its actions.

        Games of this run in the store that were finished later are removed: they are about to be played again.

        Args:
            counters: as given.
            tensors: as given.

        Raises:
            ValueError: the store lacks games or holds others, or the game at hand does not repeat itself.
        """
        self.finished = [self._load(number) for number in range(counters["games"])]
        later = range(counters["games"], len(self.store))
        for number in later:
            self._load(number)  # nobody else's games are removed
        self.processes.wait()  # until all have looked
        if self.processes.first:
            for path in self.store.paths[counters["games"] :]:
                path.unlink()
        self.processes.wait()
        self.game, self._policy = None, str(counters["policy"])
        if counters["playing"]:
            self.game = RecordedGame(self.env, self.spec, self.seed + len(self.finished))
            for action in tensors["actions"].tolist():
                self.game.step(action)
            if self.game.over or _checksum(self.game.frame) != counters["frame"]:
                raise ValueError(
                    "The game that was being played does not go as it went, though begun with the same seed and played "
                    "with the same actions. Another version of the game or its emulator? Go on with the one that the "
                    "run was begun with, or start a new run."
                )
        signs = np.concatenate([[0], *(np.sign(episode.rewards).astype(np.int64) for episode in self.episodes)])[1:]
        self.signs = np.bincount(signs + 1, minlength=3)


def _context(frames: np.ndarray) -> Contexts:
    """Frames uint8 (T, H, W, C) of one life as what a policy catches up on."""
    return Contexts(frames[None], np.zeros((1, len(frames) - 1), np.int64), np.ones((1, len(frames)), np.bool_))


def _checksum(frame: np.ndarray) -> int:
    return zlib.crc32(frame.tobytes())
