"""Quotients of counts, and how they are shown."""

# Bytes of programs below which bytes of the device are not divided by them: a cache, not the engine, would make the quotient.
BYTES_MIN = 256 << 10


def ratio(part, whole):
    """A quotient of bytes; None where one of both is not known, or there is nothing to divide by."""
    return None if part is None or not whole else part / whole


def amplification(part, programs):
    """The same, of what programs moved."""
    return ratio(part, programs) if programs and programs >= BYTES_MIN else None


def shown(value, digits=2):
    """A figure, or what stands where nobody counted."""
    return "-" if value is None else f"{value:,.{digits}f}"
