"""A run as a flow: seed, units, job processes, store, results, timings. Imports no torch, except in the job process itself."""
