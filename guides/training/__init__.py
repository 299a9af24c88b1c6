"""Training a policy with a value head, and what a trained head is worth."""
