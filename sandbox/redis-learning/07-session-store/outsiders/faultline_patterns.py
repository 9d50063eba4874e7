"""Ours, as it is: the exercise's contract is the signature of the pattern."""

from faultline.patterns.sessions import Session, SessionStore

__all__ = ["Session", "SessionStore"]
