"""The outside world that moves money: not ours, plain, and misbehaving on request."""
