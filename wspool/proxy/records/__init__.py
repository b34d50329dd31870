"""What is known of requests, and what many of them come to. No key, and no text of a conversation."""
