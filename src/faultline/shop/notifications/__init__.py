"""Notifications: what the shop has to tell somebody, kept until it is read, and pushed to whoever is looking."""
