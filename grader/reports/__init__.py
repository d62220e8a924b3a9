"""Reports that people read: scoreboard, CSV, JUnit XML, feedback. This package does not know how results are made."""
