"""The tree core: records, compiled loops, selection rules, one tree for methods, many trees of a
game.
"""
