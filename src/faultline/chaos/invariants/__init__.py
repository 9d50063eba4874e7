"""One promise of the whole shop a file, each named by its number in `checker.INVARIANTS`."""
