"""How far a dream can be trusted: dream beside real."""

from gym_dream.evaluation.returns import Comparison, Settings, compare

__all__ = ["Comparison", "Settings", "compare"]
