"""A verdict: suites, fixtures, the two sides, comparison, draws. Does not know which submission is whose."""
