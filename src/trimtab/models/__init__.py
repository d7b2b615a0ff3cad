"""Language models: the protocol, its implementation over transformers, and models made of others."""
