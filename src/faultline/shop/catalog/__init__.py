"""Products and what they cost: the service that is read most and written least."""
