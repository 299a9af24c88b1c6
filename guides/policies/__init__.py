"""Policies: what proposes steps, and what it reads."""
