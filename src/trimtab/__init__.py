"""trimtab tunes a small language model towards a reward and steers large frozen ones with it while they decode."""
