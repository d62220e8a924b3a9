"""Named wrong answers to the tasks of deployment."""
