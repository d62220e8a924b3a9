"""Where students' code runs. `worker/` is confined; `supervisor/` is how the trusted process controls it."""
