"""Networks of world models: plain PyTorch modules and small functions."""
