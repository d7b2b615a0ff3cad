"""`trimtab serve`: a guided model behind OpenAI's protocol."""
