"""The real games: the same spaces, preprocessing and ending rule as the dreams.

Preprocessing is DIAMOND's: every action is held for four frames of the console, the last two frames are merged by
their maximum (Atari draws some sprites on every other frame only), and the 210x160 colour picture is reduced to 64x64
by area. A game opens with up to 30 idle frames, actions are its minimal set, and no action is repeated by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import ale_py
import gymnasium as gym
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import AtariPreprocessing

from gym_dream.actions import ActionNames, check_actions
from gym_dream.games import find_game

FRAME_SIZE = 64
FRAME_SKIP = 4
NOOP_MAX = 30
RENDER_FPS = 60 // FRAME_SKIP

Ending = Literal["life", "game"]
Rewards = Literal["sign", "raw"]

gym.register_envs(ale_py)


def make(
    game: str,
    *,
    ending: Ending = "life",
    rewards: Rewards = "sign",
    repeat_action_probability: float = 0.0,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
) -> gym.Env[np.ndarray, np.int64]:
    """One real game.

    Observations are uint8 (64, 64, 3). ``info`` holds ``lives`` (int), ``raw_reward`` (float, the game's own points)
    and ``ram`` (uint8 (128,), the console's memory).

    Args:
        game: one of the 26 games of `gym_dream.games.GAMES`, e.g. ``"Breakout"``.
        ending: ``"life"`` terminates an episode with each life; a `reset` without a seed then goes on with the next
            life of the same game, whose first observation is the last one of the life before. ``"game"`` terminates
            with the game.
        rewards: ``"sign"`` (-1, 0 or 1, as in dreams) or ``"raw"``.
        repeat_action_probability: chance that the console repeats the previous action (0.25 is ALE's "sticky actions").
        max_episode_steps: truncate an episode after this many steps; None or -1 for never.
        render_mode: ``"rgb_array"`` or ``"human"``; renders the console's full 210x160 picture.

    Raises:
        ValueError: unknown game, ending or rewards.
    """
    env: gym.Env[Any, Any] = gym.make(
        ale_id(game),
        frameskip=1,
        repeat_action_probability=repeat_action_probability,
        full_action_space=False,
        render_mode=render_mode,
    )
    env = AtariPreprocessing(env, noop_max=NOOP_MAX, frame_skip=FRAME_SKIP, screen_size=FRAME_SIZE, grayscale_obs=False)
    return GameRules(env, ending=ending, rewards=rewards, max_episode_steps=max_episode_steps)


def make_vec(
    game: str,
    num_envs: int = 1,
    *,
    ending: Ending = "life",
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    rewards: Rewards = "sign",
    repeat_action_probability: float = 0.0,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
) -> RealVectorEnv:
    """Several real games at once, each on a thread of its own. See `RealVectorEnv`; arguments as in `make`."""
    return RealVectorEnv(
        game,
        num_envs,
        ending=ending,
        autoreset_mode=autoreset_mode,
        rewards=rewards,
        repeat_action_probability=repeat_action_probability,
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
    )


def ale_id(game: str) -> str:
    """ALE's Gymnasium id of a game: ``"breakout"`` -> ``"ALE/Breakout-v5"``."""
    return f"ALE/{find_game(game).name}-v5"


def env_spec(game: str, *, ending: Ending = "life", repeat_action_probability: float = 0.0) -> dict[str, Any]:
    """All that fixes what a recorded frame, action and ending mean, as a JSON-able dictionary.

    It goes into every recorded episode and from there into a world model's configuration.
    """
    _check_choices(ending=ending)
    with gym.make(ale_id(game), frameskip=1) as env:
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        keys = env.unwrapped.get_keys_to_action()  # type: ignore[attr-defined]
    return {
        "id": ale_id(game),
        "game": find_game(game).name,
        "frame_shape": [FRAME_SIZE, FRAME_SIZE, 3],
        "frame_skip": FRAME_SKIP,
        "max_pool": True,
        "noop_max": NOOP_MAX,
        "repeat_action_probability": repeat_action_probability,
        "action_meanings": list(meanings),
        "keys_to_action": {"".join(combination): action for combination, action in keys.items()},
        "ending": ending,
    }


class GameRules(gym.Wrapper[np.ndarray, np.int64, np.ndarray, np.int64], RecordConstructorArgs):
    """Ends episodes per life or per game, derives rewards, and shows the console's memory in ``info``.

    It limits episodes itself: a `TimeLimit` would count the console's frames after a round trip through the spec, which
    puts it below `AtariPreprocessing`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        ending: Ending = "life",
        rewards: Rewards = "sign",
        max_episode_steps: int | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, ending=ending, rewards=rewards, max_episode_steps=max_episode_steps)
        super().__init__(env)
        _check_choices(ending=ending, rewards=rewards)
        self.metadata = {**env.metadata, "render_fps": RENDER_FPS}
        self._ending = ending
        self._rewards = rewards
        self._max_episode_steps = _limit(max_episode_steps)
        self._steps = 0  # of the running episode
        self._lives = 0
        self._next_life: np.ndarray | None = None  # the observation it begins with, after a life was lost

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the next life of the running game if one was just lost and no seed is given, else a new game."""
        if self._next_life is not None and seed is None:
            observation = self._next_life
        else:
            observation, _ = self.env.reset(seed=seed, options=options)
        self._next_life = None
        self._steps = 0
        info = self._info(raw_reward=0.0)
        self._lives = info["lives"]
        return observation, info

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one action for four frames of the console.

        Raises:
            ResetNeeded: before the first reset, or after a life that ended an episode.
            InvalidAction: an action out of range.
        """
        if action not in self.action_space:
            raise InvalidAction(f"Expected an action in {self.action_space}, got {action!r}.")
        if self._next_life is not None:
            raise ResetNeeded("The episode has ended with a life: call reset(), which goes on with the next one.")
        observation, points, game_over, truncated, _ = self.env.step(action)
        raw_reward = float(points)
        reward = float(np.sign(raw_reward)) if self._rewards == "sign" else raw_reward
        info = self._info(raw_reward)
        lost_life = info["lives"] < self._lives
        self._lives = info["lives"]
        if lost_life and self._ending == "life" and not (game_over or truncated):
            self._next_life = observation.copy()
        terminated = game_over or self._next_life is not None
        self._steps += 1
        truncated = truncated or self._steps >= self._max_episode_steps
        return observation, reward, terminated, truncated, info

    def _info(self, raw_reward: float) -> dict[str, Any]:
        console = self.unwrapped.ale  # type: ignore[attr-defined]
        return {"lives": console.lives(), "raw_reward": raw_reward, "ram": console.getRAM()}


class RealVectorEnv(ActionNames, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Several real games at once: ALE's own vector environment, with Gymnasium's manners at lost lives.

    Observations are uint8 (N, 64, 64, 3), rewards float64 (N,). ``info`` holds ``lives`` int32 (N,) and ``raw_reward``
    float32 (N,), the game's own points; with SAME_STEP autoreset also ``final_obs`` and ``final_info`` of the rows that
    the mask ``_final_obs`` names.

    ALE can end episodes with each life by itself, but then its ``final_obs`` is uninitialised memory with SAME_STEP
    autoreset, and with NEXT_STEP it plays the action that Gymnasium says is ignored. It steps all its games or none, so
    the second cannot be mended from outside. Hence each game has an ALE environment of its own (they still run in
    parallel: all are sent their actions before the first is waited for), and lives and resets are handled here.

    The number of idle frames at the start of a game is drawn by ALE: for the same seed it differs from that of `make`.
    """

    def __init__(
        self,
        game: str,
        num_envs: int = 1,
        *,
        ending: Ending = "life",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        rewards: Rewards = "sign",
        repeat_action_probability: float = 0.0,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        _check_choices(ending=ending, rewards=rewards)
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = render_mode
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": ["rgb_array"], "render_fps": RENDER_FPS}
        self.single_observation_space = Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self.single_action_space = Discrete(find_game(game).actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._ending = ending
        self._rewards = rewards
        self._max_episode_steps = _limit(max_episode_steps)
        self._game = game
        self._games = [_ale_game(game, repeat_action_probability) for _ in range(num_envs)]
        self._observations = np.zeros((num_envs, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self._lives = np.zeros(num_envs, np.int32)
        self._steps = np.zeros(num_envs, np.int64)  # of the running episode
        self._started = np.zeros(num_envs, np.bool_)
        self._ended = np.zeros(num_envs, np.bool_)  # the episode awaits a reset …
        self._game_goes_on = np.zeros(num_envs, np.bool_)  # … which begins the next life of the same game

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the next life of a game that just lost one and is given no seed, else a new game.

        Args:
            seed: an integer s seeds game i with s + i; or one integer or None for each game.
            options: ``{"reset_mask": bool (N,)}`` resets only some; the others keep observation and episode.

        Raises:
            ValueError: a wrong number of seeds, a negative one, or a mask of wrong shape or type.
        """
        self._check_open()
        if seed is None and not self._started.any() and (self.np_random_seed or 0) >= 0:  # -1: not known
            seed = self.np_random_seed  # so that this run, too, can be told how to repeat itself
        if seed is None:
            seeds: list[int | None] = [None] * self.num_envs
        elif isinstance(seed, (int, np.integer)):
            seeds = [int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = [None if one is None else int(one) for one in seed]
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be None, an integer or {self.num_envs} of them, got {len(seeds)}.")
        if negative := [one for one in seeds if one is not None and one < 0]:
            raise ValueError(f"Seeds must not be negative, got {negative[0]}.")
        if unknown := sorted(set(options or {}) - {"reset_mask"}):
            raise ValueError(f"Unknown reset options {unknown}: expected 'reset_mask'.")
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"options['reset_mask'] must be bool of shape ({self.num_envs},), got {mask.dtype} of {mask.shape}."
            )
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
        self._restart(mask, seeds)
        return self._observations.copy(), self._info(np.zeros(self.num_envs, np.float32))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one action in every game; with NEXT_STEP autoreset, an ended episode is reset instead.

        Raises:
            ResetNeeded: before the first reset, or with autoreset disabled after an episode's end.
            InvalidAction: actions of wrong shape, type or range.
        """
        self._check_open()
        actions = check_actions(self.single_action_space, actions, self.num_envs)  # ALE does not: a wrong one hangs it
        if not self._started.all():
            raise ResetNeeded("Call reset() before the first step().")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(
                f"The episodes of environments {np.flatnonzero(self._ended).tolist()} have ended: reset them with "
                "reset(options={'reset_mask': ...}) first, or choose an autoreset_mode other than DISABLED."
            )
        playing = ~self._ended
        self._restart(self._ended)
        raw_reward, terminated, truncated = self._play(actions, playing)
        self._ended = terminated | truncated

        info = self._info(raw_reward)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._ended.any():
            ended, final_obs, final_info = self._ended, self._observations.copy(), info
            self._restart(ended)
            info = self._info(raw_reward)
            info |= {"final_obs": final_obs, "final_info": final_info, "_final_obs": ended, "_final_info": ended.copy()}
        rewards = np.sign(raw_reward) if self._rewards == "sign" else raw_reward
        return self._observations.copy(), rewards.astype(np.float64), terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the games, and with them of their threads."""
        self._games = []

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current observations, one uint8 (64, 64, 3) a game.

        Raises:
            ResetNeeded: before the first reset.
        """
        self._check_open()
        if self.render_mode is None:
            return None
        if not self._started.all():
            raise ResetNeeded("There is nothing to see yet: call reset() first.")
        return tuple(self._observations.copy())

    def _of_spec(self, name: str) -> Any:
        return env_spec(self._game)[name]

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("This vector environment is closed: make a new one.")

    def _restart(self, mask: np.ndarray, seeds: Sequence[int | None] | None = None) -> None:
        for row in np.flatnonzero(mask).tolist():
            seed = None if seeds is None else seeds[row]
            if self._game_goes_on[row] and seed is None:
                continue
            observation, info = self._games[row].reset(seed=None if seed is None else _ale_seed(seed))
            self._observations[row] = observation[0, 0]
            self._lives[row] = info["lives"][0]
        self._steps[mask] = 0
        self._started |= mask
        self._ended = self._ended & ~mask
        self._game_goes_on &= ~mask

    def _play(self, actions: np.ndarray, playing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Raw rewards float32 (N,), terminated and truncated bool (N,) of one step in the games that are playing."""
        raw_reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        rows = np.flatnonzero(playing)
        for row in rows:
            self._games[row].send(actions[row : row + 1])
        for row in rows:
            observation, reward, game_over, cut, info = self._games[row].recv()
            lost_life = info["lives"][0] < self._lives[row]
            self._game_goes_on[row] = lost_life and self._ending == "life" and not (game_over[0] or cut[0])
            self._observations[row] = observation[0, 0]
            self._lives[row] = info["lives"][0]
            raw_reward[row] = reward[0]
            terminated[row] = game_over[0] or self._game_goes_on[row]
            truncated[row] = cut[0]
        self._steps += playing
        truncated |= playing & (self._steps >= self._max_episode_steps)
        return raw_reward, terminated, truncated

    def _info(self, raw_reward: np.ndarray) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, np.bool_)
        return {
            "lives": self._lives.copy(),
            "_lives": everyone,
            "raw_reward": raw_reward,
            "_raw_reward": everyone.copy(),
        }


def _ale_game(game: str, repeat_action_probability: float) -> AtariVectorEnv:
    """ALE's vector environment with one game, ending with the game; it is always reset explicitly.

    Its rewards are the game's own points, and it presses no button by itself.
    """
    env = gym.make_vec(
        ale_id(game),
        num_envs=1,
        img_height=FRAME_SIZE,
        img_width=FRAME_SIZE,
        grayscale=False,
        stack_num=1,
        frameskip=FRAME_SKIP,
        noop_max=NOOP_MAX,
        repeat_action_probability=repeat_action_probability,
        use_fire_reset=False,
        reward_clipping=False,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    VectorEnv.metadata.pop("autoreset_mode", None)  # ALE writes it into the dictionary that all classes share
    return env  # type: ignore[return-value]


def _ale_seed(seed: int) -> int:
    """ALE takes 31 bits: a larger seed is hashed to as many."""
    return seed if seed < 2**31 else int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)


def _limit(max_episode_steps: int | None) -> float:
    """Steps of an episode at most, infinity for None or -1."""
    if max_episode_steps is None or max_episode_steps == -1:
        return float("inf")
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps must be at least 1, or -1 or None for no limit, got {max_episode_steps}.")
    return max_episode_steps


def _check_choices(*, ending: str = "life", rewards: str = "sign") -> None:
    if ending not in ("life", "game"):
        raise ValueError(f"ending must be 'life' or 'game', got {ending!r}.")
    if rewards not in ("sign", "raw"):
        raise ValueError(f"rewards must be 'sign' or 'raw', got {rewards!r}.")
