"""Data that a run starts from: labelled reviews and their split, instructions."""
