"""A network with its optimiser and moving average: one update, and all of it as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

#: Modules whose parameters weight decay leaves alone, beside every bias.
NO_DECAY = (nn.GroupNorm, nn.LayerNorm, nn.Embedding)


class Learner:
    """AdamW, gradient clipping and an exponential moving average around one network."""

    def __init__(
        self, network: nn.Module, learning_rate: float, weight_decay: float, max_grad_norm: float, average_decay: float
    ) -> None:
        """Take a network over; its weights are updated in place."""
        self.network = network
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.average_decay = average_decay
        self.average = AveragedModel(network)
        self.average.requires_grad_(False)
        decayed, others = _by_decay(network)
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=learning_rate, eps=1e-8, fused=True)

    def update(self, loss: Tensor, rate: float) -> Tensor:
        """Descend the gradient of ``loss`` at ``rate`` times the learning rate; returns the norm before clipping."""
        self.forget()
        loss.backward()
        return self.descend(rate, self.gradient())

    def forget(self) -> None:
        """Drop the gradient, before another is added up by ``backward``."""
        self.optimiser.zero_grad(set_to_none=True)

    def gradient(self) -> list[Tensor]:
        """The gradient added up so far, one tensor a weight, to be changed in place."""
        return [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]

    def descend(self, rate: float, gradient: Sequence[Tensor]) -> Tensor:
        """Follow a gradient, clipped, at ``rate`` times the learning rate; returns its norm before clipping.

        Nothing here waits for the device.

        Args:
            rate: factor of the learning rate.
            gradient: one tensor for each weight that has one, as from `gradient`; clipped in place.
        """
        learnt = (parameter for parameter in self.network.parameters() if parameter.grad is not None)
        for parameter, tensor in zip(learnt, gradient, strict=True):
            parameter.grad = tensor
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * rate
        self.optimiser.step()
        self._update_average()
        return norm

    @torch.no_grad()
    def _update_average(self) -> None:
        # Not by AveragedModel.update_parameters, which sends the count of updates to the device and back, each time
        # waiting for all that is under way there. Here the count never leaves the host.
        count = int(self.average.n_averaged)
        # A young average forgets quickly, so that short runs are not dominated by their beginning.
        decay = min(self.average_decay, (1 + count) / (10 + count)) if count else 0.0
        torch._foreach_lerp_(list(self.average.module.parameters()), list(self.network.parameters()), 1 - decay)
        self.average.n_averaged += 1

    def tensors(self) -> dict[str, Tensor]:
        """Everything an uninterrupted run would go on with, by name: weights, average and optimiser state."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave.

        Raises:
            RuntimeError: a weight is missing, unknown or of another shape.
        """
        self.network.load_state_dict(_under("network.", tensors))
        self.average.load_state_dict(_under("average.", tensors))
        state = _under("optimiser.", tensors)
        for name, parameter in self.network.named_parameters():
            if state:  # there is none before the first update
                # In memory the moments must lie as the weights do (channels last), which the fused update relies on.
                moments = {key: torch.empty_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
                for key, moment in moments.items():
                    moment.copy_(state[f"{name}.{key}"])
                step = state[f"{name}.step"].to(parameter.device, copy=True)  # where the fused update counts
                self.optimiser.state[parameter] = {"step": step, **moments}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _by_decay(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spared = isinstance(module, NO_DECAY) or "bias" in name
            (others if spared else decayed).append(parameter)
    return decayed, others
