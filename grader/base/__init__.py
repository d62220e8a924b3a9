"""Vocabulary and helpers that every package may use: outcomes, hostile strings, torchvision beside a CPU build of torch."""
