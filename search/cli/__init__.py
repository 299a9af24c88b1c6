"""The command `copse`: it may import everything, and nothing imports it."""
