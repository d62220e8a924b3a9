"""Finds hand-ins that look alike. It judges nobody: it shows two texts side by side."""
