"""What every package may use: outcomes, exit statuses, hostile strings, files, torchvision. Knows nothing else of the grader."""
