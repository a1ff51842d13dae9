"""Fit world models and agents to data."""
