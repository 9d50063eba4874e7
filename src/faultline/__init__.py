"""Faultline: learn distributed systems by running, breaking and fixing a real shop."""

__all__: list[str] = []
