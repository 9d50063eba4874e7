"""The money of orders: what is to be taken and given back, and the ledger that says what was."""
