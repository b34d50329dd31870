"""A run that is many processes, with one pace and one budget: a `Place` of `wspool.rollout.runner`."""
