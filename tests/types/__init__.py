"""Programs as users write them, for type checkers: nothing here is run but by mypy and pyright."""
