"""The course: manifest, stubs, banks of answers, parts of notebooks, digits. Knows nothing of submissions, grading or students."""
