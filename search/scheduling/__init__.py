"""Requests, who drives them, budgets, clocks, and functions in processes of their own."""
