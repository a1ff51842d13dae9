"""Learned policies."""

from .actor_critic import ActorCritic, ActorCriticConfig
from .policy import AgentConfig, AgentPolicy, load_agent

__all__ = ["ActorCritic", "ActorCriticConfig", "AgentConfig", "AgentPolicy", "load_agent"]
