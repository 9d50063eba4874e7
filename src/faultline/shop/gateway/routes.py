"""What passes, and for whom: these lines, and nothing else; docs/authorisation.md shows them as a table.

python -m faultline.shop.gateway.policy          writes it anew
"""

from faultline.shop.contracts import Role, Scope
from faultline.shop.gateway.domain import Needs, Repeat, Route, Whose

PUBLIC = Needs(None, {})
"""Nobody's: products, and whatever is opened by what is sent with it: a password, a cookie, a code, a secret."""
SHOPPERS = {Role.GUEST: Whose.OWN, Role.CUSTOMER: Whose.OWN, Role.SUPPORT: Whose.OWN, Role.ADMIN: Whose.OWN}
MEMBERS = {Role.CUSTOMER: Whose.OWN, Role.SUPPORT: Whose.OWN, Role.ADMIN: Whose.OWN}
STAFF = {Role.SUPPORT: Whose.ANY, Role.ADMIN: Whose.ANY}
OPERATORS = {Role.ADMIN: Whose.ANY}

CART = Needs(Scope.CART, SHOPPERS)
NOTIFICATIONS = Needs(Scope.NOTIFICATIONS, SHOPPERS)
MERGE = Needs(Scope.CART, MEMBERS)
ORDER = Needs(Scope.ORDERS_WRITE, SHOPPERS)
MY_ORDERS = Needs(Scope.ORDERS_READ, SHOPPERS)
ORDERS = Needs(Scope.ORDERS_READ, SHOPPERS | STAFF)
PRODUCTS = Needs(Scope.PRODUCTS_WRITE, OPERATORS)
STOCK = Needs(Scope.STOCK_WRITE, OPERATORS | {Role.PARTNER: Whose.ANY})
MINE = Needs(Scope.ACCOUNT, MEMBERS)
ACCOUNT = Needs(Scope.ACCOUNT, MEMBERS | STAFF)
ERASE = Needs(Scope.ACCOUNT, MEMBERS | OPERATORS)
USERS = Needs(Scope.USERS_WRITE, OPERATORS)
REPORTS = Needs(Scope.ANALYTICS_READ, OPERATORS)
BACKFILLS = Needs(Scope.ANALYTICS_WRITE, OPERATORS)

ALWAYS, BY_KEY, NEVER = Repeat.ALWAYS, Repeat.BY_KEY, Repeat.NEVER
KEPT = 5.0  # seconds for which a product may be old while the broker is away; otherwise its event takes it away
SLOWLY = 6.0  # seconds: a password is hashed, and some may be before it; what is lost costs a consent; a ledger is read

ROUTES = (
    Route("GET", "/v1/products", "catalog", 3.0, ALWAYS, PUBLIC),
    Route("POST", "/v1/products", "catalog", 3.0, NEVER, PRODUCTS),
    Route("GET", "/v1/products/{sku}", "catalog", 3.0, ALWAYS, PUBLIC, kept=KEPT),
    Route("PUT", "/v1/products/{sku}", "catalog", 3.0, NEVER, PRODUCTS),
    Route("DELETE", "/v1/products/{sku}", "catalog", 3.0, NEVER, PRODUCTS),
    Route("GET", "/v1/products/{sku}/prices", "catalog", 3.0, ALWAYS, PUBLIC),
    Route("PUT", "/v1/products/{sku}/price", "catalog", 3.0, NEVER, PRODUCTS),
    Route("POST", "/v1/products/{sku}/views", "catalog", 1.0, NEVER, PUBLIC),
    Route("GET", "/v1/trending", "catalog", 3.0, ALWAYS, PUBLIC),
    Route("GET", "/v1/product-pages/{sku}", "gateway", 3.0, ALWAYS, PUBLIC),
    Route("GET", "/v1/search", "search", 3.0, ALWAYS, PUBLIC),
    Route("GET", "/v1/search/suggestions", "search", 1.0, ALWAYS, PUBLIC),
    Route("POST", "/v1/search/rebuilds", "search", 3.0, NEVER, PRODUCTS),
    Route("GET", "/v1/search/rebuilds/last", "search", 3.0, ALWAYS, PRODUCTS),
    Route("POST", "/v1/search/checks", "search", 3.0, NEVER, PRODUCTS),
    Route("GET", "/v1/search/checks/last", "search", 3.0, ALWAYS, PRODUCTS),
    Route("GET", "/v1/stores", "search", 3.0, ALWAYS, PUBLIC),
    Route("GET", "/v1/cart", "cart", 3.0, ALWAYS, CART),
    Route("DELETE", "/v1/cart", "cart", 3.0, NEVER, CART),
    Route("POST", "/v1/cart/merges", "cart", 3.0, NEVER, MERGE),
    Route("PUT", "/v1/cart/lines/{sku}", "cart", 3.0, NEVER, CART),  # a late second one could undo a newer one
    Route("DELETE", "/v1/cart/lines/{sku}", "cart", 3.0, NEVER, CART),
    Route("POST", "/v1/orders", "orders", 3.0, BY_KEY, ORDER),
    Route("GET", "/v1/orders", "orders", 3.0, ALWAYS, MY_ORDERS),
    Route("GET", "/v1/orders/{order}", "orders", 3.0, ALWAYS, ORDERS),
    Route("GET", "/v1/orders/{order}/history", "orders", 3.0, ALWAYS, ORDERS),
    Route("GET", "/v1/orders/{order}/stream", "orders", 3.0, ALWAYS, ORDERS, streams=True),
    Route("PUT", "/v1/orders/{order}/return", "orders", 3.0, NEVER, ORDER),
    Route("GET", "/v1/notifications", "notifications", 3.0, ALWAYS, NOTIFICATIONS),
    Route("PUT", "/v1/notifications/read", "notifications", 3.0, NEVER, NOTIFICATIONS),
    Route("GET", "/v1/notifications/stream", "notifications", 3.0, ALWAYS, NOTIFICATIONS, streams=True),
    Route("PUT", "/v1/notifications/{notification}/read", "notifications", 3.0, NEVER, NOTIFICATIONS),
    Route("GET", "/v1/stock/{sku}", "inventory", 3.0, ALWAYS, PUBLIC),
    Route("PUT", "/v1/stock/{sku}/receipts/{receipt}", "inventory", 3.0, NEVER, STOCK),
    Route("POST", "/v1/users", "users", SLOWLY, NEVER, PUBLIC),
    Route("GET", "/v1/users/{user}", "users", 3.0, ALWAYS, ACCOUNT),
    Route("DELETE", "/v1/users/{user}", "users", 3.0, NEVER, ERASE),
    Route("PUT", "/v1/users/{user}/role", "users", 3.0, NEVER, USERS),
    Route("POST", "/v1/sessions", "users", SLOWLY, NEVER, PUBLIC),
    Route("GET", "/v1/sessions", "users", 3.0, ALWAYS, MINE),
    Route("DELETE", "/v1/sessions", "users", 3.0, NEVER, MINE),
    Route("POST", "/v1/sessions/current/tokens", "users", 3.0, NEVER, PUBLIC),
    Route("DELETE", "/v1/sessions/current", "users", 3.0, NEVER, PUBLIC),
    Route("DELETE", "/v1/sessions/{session}", "users", 3.0, NEVER, MINE),
    Route("POST", "/v1/api-keys", "users", 3.0, NEVER, MINE),
    Route("GET", "/v1/api-keys", "users", 3.0, ALWAYS, MINE),
    Route("DELETE", "/v1/api-keys/{key}", "users", 3.0, NEVER, MINE),
    Route("GET", "/v1/oauth/authorize", "users", 3.0, ALWAYS, PUBLIC),
    Route("POST", "/v1/oauth/authorize", "users", 3.0, NEVER, PUBLIC),
    Route("POST", "/v1/oauth/token", "users", SLOWLY, NEVER, PUBLIC),
    Route("POST", "/v1/oauth/revoke", "users", 3.0, NEVER, PUBLIC),
    Route("POST", "/v1/oauth/clients", "users", 3.0, NEVER, USERS),
    Route("GET", "/v1/oauth/jwks", "users", 3.0, ALWAYS, PUBLIC),
    Route("GET", "/v1/analytics/sales", "analytics", 3.0, ALWAYS, REPORTS),
    Route("GET", "/v1/analytics/days", "analytics", 3.0, ALWAYS, REPORTS),
    Route("GET", "/v1/analytics/reconciliation", "analytics", SLOWLY, ALWAYS, REPORTS),
    Route("POST", "/v1/analytics/backfills", "analytics", 3.0, NEVER, BACKFILLS),
    Route("GET", "/v1/analytics/backfills/{backfill}", "analytics", 3.0, ALWAYS, REPORTS),
    Route("GET", "/.well-known/oauth-authorization-server", "users", 3.0, ALWAYS, PUBLIC),
)
