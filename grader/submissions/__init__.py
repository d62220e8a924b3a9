"""Reads what was handed in (folders, archives, notebooks, git) and keeps source text only. Knows nothing of grading."""
