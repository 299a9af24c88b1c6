"""Benchmarks: problems with their targets, and what measures search, models and guides on them. Nobody imports this package."""
