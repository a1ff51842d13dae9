"""How far a dream can be trusted: dream beside real."""
