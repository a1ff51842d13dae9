"""`gym-dream bench`: how fast this machine dreams and trains, beside what it could do at most."""
