"""Methods over budgets on one task: what `copse bench` is made of."""
