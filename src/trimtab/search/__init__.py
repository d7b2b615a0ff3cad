"""Decoding: one search over a proposer and a value."""
