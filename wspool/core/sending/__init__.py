"""What is sent: the history of a conversation, delta or full, and what may be sent again."""
