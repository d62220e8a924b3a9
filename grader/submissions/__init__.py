"""What was handed in, reduced to source text: folders, archives, notebooks, git. Knows nothing of grading."""
