"""Trained world models as Gymnasium environments."""
