"""The table of who may what, as a page: `python -m faultline.shop.gateway.policy` writes docs/authorisation.md."""

from pathlib import Path

from faultline.shop.contracts import Role
from faultline.shop.gateway.domain import Route
from faultline.shop.gateway.routes import ROUTES

DOCUMENT = Path("docs", "authorisation.md")
HEAD = """# Who may what

Made from the gateway's table by `python -m faultline.shop.gateway.policy`. `tests/shop/test_authorisation.py` asks
every line as every role, for what is its own and for what is another's, and compares what it gets with this page.

*own*: what is one's own, and of another's not even whether it is there (404). *any*: another's, too. *all*: nobody's in
particular, or opened by what is sent with it: a password, a cookie, a code. A dash: refused, nobody with 401, the
others with 403. With a token its scope counts, too. A *guest* is whoever sends
`X-Guest`, a *partner* a program that acts for itself.

"""


def cell(route: Route, role: Role) -> str:
    """What that role may there, in one word."""
    if route.needs.scope is None:
        return "all"
    whose = route.needs.may.get(role)
    return whose.value if whose else "-"


def page() -> str:
    """The whole of it."""
    rows = [["route", "scope", *(str(role) for role in Role)], ["---"] * (2 + len(Role))]
    for route in ROUTES:
        scope = f"`{route.needs.scope}`" if route.needs.scope else ""
        rows.append([f"`{route.method} {route.outside}`", scope, *(cell(route, role) for role in Role)])
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    DOCUMENT.write_text(page())
