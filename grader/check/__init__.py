"""The content gate."""
