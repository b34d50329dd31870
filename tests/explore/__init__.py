"""The explorer of trio programs: that it can be trusted, and what it says of the pool."""
