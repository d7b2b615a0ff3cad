"""Models and data sets: what is known (`catalog`), how it comes here (`download`, `convert`, `hub`), where (`resolve`)."""
