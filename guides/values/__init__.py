"""Value functions: reward models, judges, likelihood, roll-outs."""
