"""A course for nbgrader: its notebooks, the preprocessors that grade them in our workers, and its gradebook."""
