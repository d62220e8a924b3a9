"""The course: manifest, stubs, banks of answers, digits. Knows nothing of submissions, grading or students."""
