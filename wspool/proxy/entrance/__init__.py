"""Where clients come in: what is listened on, and what all of them meet first."""
