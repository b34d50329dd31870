"""Who may ask, as whom, how much, and whose turn is next."""
