"""`gym-dream play`: a dream and the real game at a window, with a person or a policy at the wheel.

`session` is what the keys decide, as pure functions; `games` holds the two worlds and what is known of a running game;
`recording` writes films and episodes; `screen` is the window; `loop` puts them together.
"""
