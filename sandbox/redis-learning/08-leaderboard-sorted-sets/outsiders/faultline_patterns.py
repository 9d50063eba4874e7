"""Ours, as it is: the exercise's contract is the signature of the pattern."""

from faultline.patterns.leaderboard import Change, ChangesLost, Entry, Trending

__all__ = ["Change", "ChangesLost", "Entry", "Trending"]
