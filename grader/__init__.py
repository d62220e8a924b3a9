"""Exercises with which people learn PyTorch, and the grader whose scores can be trusted."""
