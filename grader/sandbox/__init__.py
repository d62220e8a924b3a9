"""Where students' code runs: `worker/` is confined, `supervisor/` is the trusted process's hold on it."""
