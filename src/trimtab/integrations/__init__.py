"""Trimtab inside other tools: lm-evaluation-harness and the model hub."""
