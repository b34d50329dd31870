"""Numbers as people read them."""

__all__ = ["amount", "bytes_", "count", "ratio", "seconds"]


def count(value: float | None) -> str:
    """Return a whole number."""
    return "-" if value is None else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """Return a time."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value * 1000:,.0f} ms"
    if value < 120:
        return f"{value:,.3g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def ratio(value: float | None) -> str:
    """Return a share, in percent."""
    return "-" if value is None else f"{value * 100:.1f} %"


def amount(value: float | None) -> str:
    """Return a score or a price."""
    return "-" if value is None else f"{value:,.4g}"


def bytes_(value: float | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"
