"""What the parts of the benchmark `proxy` are made of."""
