"""A network with its optimisers and moving average: one update, and all of it as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gym_dream.state import under

#: Modules whose parameters weight decay leaves alone, beside every bias.
NO_DECAY = (nn.GroupNorm, nn.LayerNorm, nn.Embedding)


class Learner:
    """AdamW, Muon if wanted, gradient clipping and an exponential moving average around one network.

    Muon follows a momentum whose matrix is made orthogonal: no direction is neglected for the gradient's largest ones
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/). It is for convolutions here.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float,
        average_decay: float,
        muon_learning_rate: float = 0.0,
    ) -> None:
        """Take a network over; its weights are updated in place.

        Args:
            network: where it will stay, in memory and on the device.
            learning_rate: AdamW's.
            weight_decay: of either, times its learning rate.
            max_grad_norm: what the gradient of all weights is clipped to.
            average_decay: of the moving average.
            muon_learning_rate: Muon's for the weights of convolutions, in AdamW's terms: an update is as long as one of
                AdamW usually is at that rate (arXiv 2502.16982). 0: AdamW for them, too.
        """
        self.network = network
        self.max_grad_norm = max_grad_norm
        self.average_decay = average_decay
        self.average = AveragedModel(network)
        self.average.requires_grad_(False)
        decayed, others = _by_decay(network)
        convolutions = {module.weight for module in network.modules() if isinstance(module, nn.Conv2d)}
        by_muon = [p for p in decayed if p in convolutions] if muon_learning_rate else []
        self._matrices = {p: nn.Parameter(_columns(p, p).view(len(p), -1)) for p in by_muon}
        groups = [
            {"params": [p for p in decayed if p not in self._matrices], "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=learning_rate, eps=1e-8, fused=True)
        #: AdamW, then Muon if it is used, each with its full learning rate, which `descend` multiplies by ``rate``.
        self.optimisers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, learning_rate)]
        if self._matrices:
            muon = torch.optim.Muon(
                self._matrices.values(),
                lr=muon_learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self.optimisers.append((muon, muon_learning_rate))

    def update(self, loss: Tensor, rate: float) -> Tensor:
        """Descend the gradient of ``loss`` at ``rate`` times the learning rate; returns the norm before clipping."""
        self.forget()
        loss.backward()
        return self.descend(rate, self.gradient())

    def forget(self) -> None:
        """Drop the gradient, before another is added up by ``backward``."""
        self.network.zero_grad(set_to_none=True)

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
        for weight, matrix in self._matrices.items():
            matrix.grad = None if weight.grad is None else _columns(weight.grad, weight).flatten(1)
        for optimiser, learning_rate in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * rate
            optimiser.step()
        for matrix in self._matrices.values():
            matrix.grad = None  # or it would be kept until the next
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
            for key, value in self._state(parameter).items():
                tensors[f"optimiser.{name}.{key}"] = value
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave.

        Raises:
            RuntimeError: a weight is missing, unknown or of another shape.
        """
        self.network.load_state_dict(under("network.", tensors))
        self.average.load_state_dict(under("average.", tensors))
        state = under("optimiser.", tensors)
        if not state:  # there is none before the first update
            return
        for name, parameter in self.network.named_parameters():
            if parameter in self._matrices:
                self._state(parameter)["momentum_buffer"] = state[f"{name}.momentum_buffer"].to(
                    parameter.device, copy=True
                )
                continue
            # In memory the moments must lie as the weights do (channels last), which the fused update relies on.
            moments = {key: torch.empty_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            for key, moment in moments.items():
                moment.copy_(state[f"{name}.{key}"])
            step = state[f"{name}.step"].to(parameter.device, copy=True)  # where the fused update counts
            self._state(parameter).update(step=step, **moments)

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What the parameter's optimiser remembers of it."""
        matrix = self._matrices.get(parameter)
        optimiser, _ = self.optimisers[0 if matrix is None else 1]
        return optimiser.state[parameter if matrix is None else matrix]


def _columns(tensor: Tensor, weight: Tensor) -> Tensor:
    """A convolution's weight or gradient (O, I, H, W) with its axes in the order in which the weight's lie in memory.

    So the weight's can be viewed as a matrix, and what changes the matrix changes the weight.
    """
    channels_last = weight.is_contiguous(memory_format=torch.channels_last)
    return tensor.detach().permute(0, 2, 3, 1) if channels_last else tensor.detach()


def _by_decay(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spared = isinstance(module, NO_DECAY) or "bias" in name
            (others if spared else decayed).append(parameter)
    return decayed, others
