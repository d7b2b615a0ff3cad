"""What a person reads at the end: the table, the figures and the page."""
