"""Arguments, looked at where they are given: a mistake is told there, and not by what it breaks later."""

__all__ = ["check_callable", "check_kind", "check_number"]


def check_number(name: str, value: object, least: float, *, whole: bool = False) -> None:
    """Raise unless *value* is a number from *least* on, a whole one if that is wanted; quote what was seen.

    Raises:
        TypeError, ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{name}={value!r:.60} is not {'an int' if whole else 'a number'}")
    if not value >= least:
        raise ValueError(f"{name}={value!r} is below {least}")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise TypeError unless *value* is of this *kind*. It is not quoted, for it may be a secret."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, not {_named(value)}")


def check_callable(name: str, value: object, *methods: str) -> None:
    """Raise TypeError unless *value* can be called, or, if there are *methods*, has those."""
    lacks = [each for each in methods if not callable(getattr(value, each, None))]
    if lacks or (isinstance(value, type) and methods):
        raise TypeError(f"{name} must be an object with {' and '.join(methods)}, not {_named(value)}")
    if not methods and not callable(value):
        raise TypeError(f"{name} must be a function, not {_named(value)}")


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
