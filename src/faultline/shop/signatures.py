"""How payment and its provider know that a message is the other's: HMAC-SHA256 over the time and all that it says.

    X-Signature: t=1764192000,v1=5257a869…

Method, path and idempotency key are signed with the body: a message that was overheard cannot be turned into another.
It can be sent again within `WINDOW`; so both sides stand hearing everything twice.
"""

import hmac
import time
from collections.abc import Callable, Mapping

from fastapi import Security
from fastapi.security import APIKeyHeader

from faultline.shop.errors import BadSettings, Problem

HEADER = "x-signature"
KEY = "idempotency-key"
SIGNED = Security(APIKeyHeader(name="X-Signature", scheme_name="signature", description="of us two", auto_error=False))
"""What a route that is signed says of it; that it is, `Signatures.require` looks at."""
WINDOW = 300.0  # seconds by which the clocks of two who trust each other may differ, with the way in between


class Signatures:
    """Made and read with one secret, which both sides have."""

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970. Raises `BadSettings` without a secret."""
        if not secret:
            raise BadSettings("SHOP_PROVIDER_SECRET is empty; `./lab shop up` makes one")
        self._secret = secret.encode()
        self._clock = clock

    def headers(self, method: str, target: str, body: bytes = b"", *, key: str = "") -> dict[str, str]:
        """What tells the other that this is ours; `target`: the path with its query. With the key, if there is one."""
        at = str(int(self._clock()))
        signed = {HEADER: f"t={at},v1={self._of(at, method, target, key, body)}"}
        return {**signed, KEY: key} if key else signed

    def require(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Raise `Problem` (401) unless the message is the other's, of now."""
        first, _, second = headers.get(HEADER, "").partition(",")
        at, given = first.removeprefix("t="), second.removeprefix("v1=")
        mine = self._of(at, method, target, headers.get(KEY, ""), body)
        if not hmac.compare_digest(mine.encode(), given.encode()):
            raise Problem(401, "bad-signature", "it is not signed with the secret that we share")
        if abs(self._clock() - int(at)) > WINDOW:  # signed, so it is a number
            raise Problem(401, "old-signature", f"it was signed more than {WINDOW:.0f} s ago, or ahead")

    def _of(self, at: str, method: str, target: str, key: str, body: bytes) -> str:
        text = f"{at}\n{method}\n{target}\n{key}\n".encode() + body
        return hmac.digest(self._secret, text, "sha256").hex()
