"""Other correct answers to the tasks of deployment."""
