"""The answer checker, and public sets of problems."""
