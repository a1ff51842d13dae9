"""Learned policies."""

from .actor_critic import ActorCritic, ActorCriticConfig
from .policy import AgentConfig, AgentPolicy, load_agent, shipped_agent
from .stacked import StackedActorCritic, StackedConfig

__all__ = [
    "ActorCritic",
    "ActorCriticConfig",
    "AgentConfig",
    "AgentPolicy",
    "StackedActorCritic",
    "StackedConfig",
    "load_agent",
    "shipped_agent",
]
