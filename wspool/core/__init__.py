"""DECIDES: pure values in, pure values out.

The rule of this package: no trio, no clock, no socket, no randomness, no logging. Time
comes in as `now`, randomness as an argument, decisions go out as commands. So a run can
be replayed from its inputs, and a test can live a day in a millisecond.

It has a room for each question: `lending`, who gets a lane; `events`, what does this event mean;
`sending`, what is sent. Beside the rooms are the words that more than one of them uses. `lending` and
`events` know no other room, `sending` knows `events`: what is sent depends on what was said.
"""
