"""Real play as data: episodes, the store, segments and contexts."""
