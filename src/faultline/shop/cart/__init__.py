"""The cart: what somebody is about to buy."""
