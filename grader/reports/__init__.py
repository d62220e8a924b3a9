"""What people read of results: scoreboard, CSV, JUnit XML, feedback. Does not know how results came about."""
