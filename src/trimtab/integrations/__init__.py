"""Trimtab inside other tools: lm-evaluation-harness, AlpacaEval and the model hub."""
