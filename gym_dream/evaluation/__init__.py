"""How far a dream can be trusted: dream beside real."""

from gym_dream.evaluation.returns import Comparison, Settings, compare
from gym_dream.evaluation.scores import evaluate_policy, score_lines

__all__ = ["Comparison", "Settings", "compare", "evaluate_policy", "score_lines"]
