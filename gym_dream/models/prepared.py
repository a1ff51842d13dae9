"""Networks made ready to dream: the same functions but for rounding, with what is the same in every pass done once.

For inference alone: the weights of a prepared network are no longer those of a checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from gym_dream.models.denoiser import Denoiser
from gym_dream.models.layers import AdaptiveGroupNorm
from gym_dream.models.reward_termination import RewardTerminationModel


@torch.no_grad()
def prepare(denoiser: Denoiser, reward_termination: RewardTerminationModel, dtype: torch.dtype) -> None:
    """Prepare a world model's networks, in place.

    The scales and shifts of all the denoiser's normalisations come from one product, which for one dream takes a
    fraction of the time that many small ones do; those of the reward and termination model, which depend on nothing
    but the action, from a table. Weights of convolutions and linear layers are rounded to ``dtype`` now, not by
    autocast in every pass (an LSTM's, which PyTorch rounds otherwise on other devices, are left to it).

    So with another type than float32 the networks are to be called under autocast to it.

    Args:
        denoiser: frozen.
        reward_termination: frozen.
        dtype: the type of the networks' arithmetic.
    """
    inner, judge = denoiser.inner_model, reward_termination
    inner.cond_proj.append(share_conditioning(inner.unet))
    table = share_conditioning(judge.encoder)(judge.act_emb.weight)
    judge.act_emb = nn.Embedding.from_pretrained(table.to(dtype))
    for network in (denoiser, reward_termination):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)


class Rows(nn.Module):
    """In the place of a linear layer: its part of what one layer computes for many."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, shared: Tensor) -> Tensor:
        """(B, all) -> (B, stop - start)."""
        return shared[:, self.start : self.stop]


def share_conditioning(network: nn.Module) -> nn.Linear:
    """Take the linear layers out of a network's adaptive normalisations, in place; return one that does for all.

    From then on the network is to be given what that layer makes of the conditioning vector.
    """
    norms = [module for module in network.modules() if isinstance(module, AdaptiveGroupNorm)]
    layers = [norm.linear for norm in norms if isinstance(norm.linear, nn.Linear)]
    shared = skip_init(nn.Linear, layers[0].in_features, sum(layer.out_features for layer in layers))
    shared.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
    shared.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    stop = 0
    for norm, layer in zip(norms, layers, strict=True):
        start, stop = stop, stop + layer.out_features
        norm.linear = Rows(start, stop)
    return shared
