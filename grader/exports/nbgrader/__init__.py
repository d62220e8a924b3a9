"""A course for nbgrader: its notebooks, what grades them in our workers, and its gradebook."""
