"""The student's loop. May not know solutions, hidden tests or the sandbox."""
