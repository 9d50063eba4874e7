"""The OpenAPI description, made true; and `/docs`: the same as a page of HTML, without a script or another host.

FastAPI writes down what it knows of a route: its parameters, and what it answers when all is well. What can go wrong
is said in three places, each once:

    a route             its own problems        router.put("/hats/{hat}", responses=raises(404, 409))(self.put)
    what it depends on  `Security`: 401 where somebody has to show something
    here                what holds of all: 422 for what is not as described, 400 for a body that cannot be read, 503 for
                        a store that does not answer, and the request's id in every answer

500 is not in it: that is a defect.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

from faultline.shop.problems import SCHEMA, raises

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color-scheme: light dark }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem } h2 b { display: inline-block; min-width: 4.5rem }
table { border-collapse: collapse } td, th { padding: .1rem 1rem .1rem 0; text-align: left; vertical-align: top }
"""

ID = {"description": "by which the logs have the request", "required": True, "schema": {"type": "string"}}
FASTAPI = ("HTTPValidationError", "ValidationError")  # its own body of a 422, which is never sent
ALIVE = "/live"  # depends on nothing


def described(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document, changed to what is really answered."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in FASTAPI:
        schemas.pop(name, None)
    schemas["Problem"] = SCHEMA
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = _whole(operation)
            if path == ALIVE:
                del responses["503"]
            for answer in responses.values():
                answer["headers"] = {**answer.get("headers", {}), "X-Request-Id": ID}
            operation["responses"] = dict(sorted(responses.items()))
    return document


def _whole(operation: dict[str, Any]) -> dict[str, Any]:
    """The answers to one method of a path: its own, and what holds of all."""
    own: dict[str, Any] = operation["responses"]
    of_all = [503]
    if "requestBody" in operation:
        of_all.append(400)
    if "security" in operation:
        of_all.append(401)
    if FASTAPI[0] in str(own.get("422")):
        del own["422"]
        of_all.append(422)
    return {str(status): answer for status, answer in raises(*of_all).items()} | own


def page(description: dict[str, Any]) -> str:
    """The page for an OpenAPI 3.1 document."""
    title = escape(description["info"]["title"])
    routes = "".join(
        part
        for path, methods in description["paths"].items()
        for method, route in methods.items()
        for part in _route(method.upper(), path, route)
    )
    schemas = "".join(
        part
        for name, schema in description.get("components", {}).get("schemas", {}).items()
        for part in _schema(name, schema)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(description['info'].get('description', ''))} "
        f'For programs: <a href="/openapi.json">openapi.json</a>.</p>{routes}<hr>{schemas}</html>'
    )


def _route(method: str, path: str, route: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><b>{method}</b> <code>{escape(path)}</code></h2><p>{escape(route.get('description', ''))}</p>"
    rows = [
        (f"{one['name']} ({one['in']})", _kind(one["schema"]), one.get("description", ""))
        for one in route.get("parameters", ())
    ]
    if body := route.get("requestBody"):
        rows += [("body", _kind(kind["schema"]), "") for kind in body["content"].values()]
    for status, answer in route["responses"].items():
        kinds = [_kind(kind["schema"]) for kind in answer.get("content", {}).values() if "schema" in kind]
        rows.append((f"→ {status}", ", ".join(kinds), answer.get("description", "")))
    yield _table(rows)


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(name)}"><code>{escape(name)}</code></h2><p>{escape(schema.get("description", ""))}</p>'
    yield _table(
        [(field, _kind(kind), kind.get("description", "")) for field, kind in schema.get("properties", {}).items()]
    )


def _kind(schema: dict[str, Any]) -> str:
    """A type in a word or two, linked where it has a name; already HTML."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if several := schema.get("anyOf"):
        return " or ".join(map(_kind, several))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("type", "anything")))


def _table(rows: list[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{escape(text)}</tr>" for name, kind, text in rows
    )
    return f"<table>{cells}</table>"
