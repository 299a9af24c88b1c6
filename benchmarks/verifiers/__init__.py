"""What labels and verifiers are worth."""
