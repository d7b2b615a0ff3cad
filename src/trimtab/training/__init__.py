"""Fitting models: the reward classifier and the tuned small model."""
