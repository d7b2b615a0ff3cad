"""The list of steps of an experiment, and what runs it."""
