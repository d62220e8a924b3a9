"""The commands, a file for each group: input and output only."""
