"""What both sides of a verdict share: values on the wire, pickled probes, process state, bans. Knows neither side."""
