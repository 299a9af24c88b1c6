"""Expert iteration and AlphaZero."""
