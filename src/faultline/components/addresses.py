"""Addresses as they may be shown."""

import re
from urllib.parse import urlsplit

HIDDEN = "***"
_SECRET = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&#]+", re.IGNORECASE)


def shown(url: str) -> str:
    """The address without a password that may stand in it, before the host or among the parameters."""
    before, at, host = urlsplit(url).netloc.rpartition("@")
    user, colon, _ = before.partition(":")
    if colon:
        url = url.replace(f"{before}{at}{host}", f"{user}:{HIDDEN}{at}{host}", 1)
    return _SECRET.sub(rf"\g<1>{HIDDEN}", url)
