"""Checkpoints on disk: weights, heads, tokenizers, other forms made plain."""
