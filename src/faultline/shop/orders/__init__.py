"""Orders, and the checkout that leads each of them to its end."""
