"""What the protocol says: requests, the grammar of events, the memory of a provider, how providers differ."""
