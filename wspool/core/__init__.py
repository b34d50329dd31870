"""DECIDES: pure values in, pure values out.

`lending`: who gets a lane. `events`: what does this event mean. `sending`: what is sent. Beside these rooms are
the words that more than one of them uses: states, commands, policy, failures, frames, statistics.
"""
