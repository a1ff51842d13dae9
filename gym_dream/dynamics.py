"""The seam between a dream and what dreams it: how one step leads to the next, whatever the model behind it.

`Dream` knows these protocols and nothing of diffusion. A world model of another kind (two-stage, recurrent latent, with
a memory …) becomes a Gymnasium environment by implementing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from gym_dream.noise import RowNoise

if TYPE_CHECKING:
    import gymnasium

    from gym_dream.data.contexts import Contexts

State = TypeVar("State")


@dataclass(frozen=True)
class ContextTensors:
    """What a batch of dreams begins from: the last L frames of each and the actions taken between them."""

    frames: Tensor
    """uint8 (B, L, H, W, C), oldest first."""
    actions: Tensor
    """(B, L - 1, …); the i-th leads from frame i to frame i + 1."""
    real: Tensor
    """bool (B, L); False where there was no frame yet and frame and action are zeros."""

    def __len__(self) -> int:
        return len(self.frames)


class Dynamics(Protocol[State]):
    """How a batch of dreams goes on. Rows never mix; a row's random numbers come from ``noise`` alone.

    ``State`` is a frozen dataclass (or NamedTuple) of tensors, or of such in turn, with the batch first. States and
    what `step` returns are never written to afterwards, by either side. No gradients run through a dream, but agents
    compute with what it returns: use ``torch.no_grad``, not inference mode.
    """

    @property
    def context_length(self) -> int:
        """Frames that a dream begins from (L)."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of observations and context frames."""

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """The actions of one dream."""

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""

    def begin(self, context: ContextTensors, noise: RowNoise) -> State:
        """The state after the context. Called with just the dreams that are reset, so with varying B."""

    def step(self, state: State, action: Tensor, noise: RowNoise) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of every dream.

        Args:
            state: from `begin` or the step before.
            action: (B, …), of the action space's type.
            noise: this step's random numbers.

        Returns:
            The next state, the observation uint8 (B, H, W, C), the reward float32 (B,) and terminated bool (B,).
        """


class _ModelConfig(Protocol):
    @property
    def env(self) -> Mapping[str, Any]:
        """The specification of the real environment, as `gym_dream.real.env_spec` makes it."""


@runtime_checkable
class DreamModel(Protocol):
    """What an environment needs of a world model. `gym_dream.world_model.WorldModel` is one."""

    @property
    def config(self) -> _ModelConfig:
        """Its ``env`` names the actions and their keys."""

    @property
    def starts(self) -> Contexts:
        """The first frames of real games."""

    @property
    def replay(self) -> Contexts | None:
        """Any moments of real games, if the model comes with some."""

    def dynamics(
        self, device: str = "auto", precision: Any = "auto", compile: bool = False, **model_kwargs: Any
    ) -> Dynamics[Any]:
        """The model ready to dream; ``model_kwargs`` are its own settings, which it checks."""
