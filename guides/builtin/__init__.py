"""How the built-in model is made: its stages and its generated examples."""
