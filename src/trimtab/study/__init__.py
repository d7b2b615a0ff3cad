"""Studies: one experiment in many cells and under several seeds."""
