"""Breaks the running shop and says whether it kept its word: clients with a history, invariants, a kill at every edge.

Of the shop it knows the map, and what lies in its stores; it imports no service.
"""
