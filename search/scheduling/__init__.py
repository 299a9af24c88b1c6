"""Requests, their driver, budgets, clocks, and functions in processes of their own."""
