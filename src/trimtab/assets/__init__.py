"""Models and data sets: what is known (`catalog`), how it comes (`hub`, `download`, `convert`), where (`resolve`)."""
