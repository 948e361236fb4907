"""Text from elsewhere, made fit to be shown."""

import re

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """Return a text without control characters, which XML 1.0 forbids and terminals obey (consoles are full of ESC)."""
    return _FORBIDDEN.sub("", text)
