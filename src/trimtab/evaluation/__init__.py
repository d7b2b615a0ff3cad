"""What decoders achieved, measured: pure metrics, and the rows of the table made with them."""
