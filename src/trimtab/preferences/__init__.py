"""Preference data: scored samples, the pairs made of them, and pairs as a data set."""
