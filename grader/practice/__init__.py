"""The student's loop. Knows no solution, no hidden test and no sandbox."""
