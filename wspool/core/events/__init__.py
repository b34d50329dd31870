"""What does this event mean: one response on a lane, event by event, to its one outcome."""
