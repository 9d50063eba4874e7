"""Who a service works for, as the gateway has verified: headers that it sets itself, and takes away from outside.

    X-User: 0d4f…        the subject: an account, a client, or a guest
    X-Whose: any         what it asks for may also be another's; without it only the subject's own
    X-Guest-User: guest-…    who it was before it logged in

A service believes these, so nobody but the gateway may reach it. What is whose is looked at where the thing is.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

USER, WHOSE, GUEST_USER = "X-User", "X-Whose", "X-Guest-User"
ANY = "any"

User = Annotated[str, Header(alias=USER, min_length=1, max_length=100, description="who asks")]


@dataclass(frozen=True, slots=True)
class Caller:
    """A subject, and how far it reaches."""

    user: str
    reaches_all: bool

    def reaches(self, owner: str) -> bool:
        """Whether it may have to do with what is this owner's."""
        return self.reaches_all or self.user == owner


def _caller(subject: User, whose: Annotated[str, Header(alias=WHOSE)] = "") -> Caller:
    return Caller(subject, whose == ANY)  # by no name that a path has: a route with `{user}` would take it for that


Asking = Annotated[Caller, Depends(_caller)]
