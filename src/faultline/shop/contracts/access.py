"""Roles and scopes: what an access token says of whoever holds it, and what the gateway's table asks for."""

from enum import StrEnum


class Role(StrEnum):
    """Who somebody is. The first two need no account, the third is a machine."""

    NOBODY = "nobody"
    GUEST = "guest"
    PARTNER = "partner"
    CUSTOMER = "customer"
    SUPPORT = "support"
    ADMIN = "admin"


class Scope(StrEnum):
    """What a token is good for; its role must be allowed to do it, too."""

    ACCOUNT = "account"
    """One's own account, its sessions and its API keys."""
    CART = "cart"
    NOTIFICATIONS = "notifications"
    """What one was told: to read it, and to say that one has."""
    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"
    PRODUCTS_WRITE = "products:write"
    STOCK_WRITE = "stock:write"
    USERS_WRITE = "users:write"
    ANALYTICS_READ = "analytics:read"
    ANALYTICS_WRITE = "analytics:write"


FIRST_HAND = frozenset({Scope.ACCOUNT, Scope.USERS_WRITE})
"""Scopes that only somebody who has logged in here gets: no client and no API key can be given them."""
AUDIENCE = "shop"
"""Whom access tokens are for."""
ACCESS_TYPE = "at+jwt"
"""What an access token says it is (RFC 9068): no other token of the same keys is taken for one."""
ALGORITHM = "ES256"
"""The one algorithm: it is chosen by whoever verifies, never by the token."""
