"""One failure in two languages: what a problem is as a status, and what a status is as a problem."""

import grpc
import pytest
from fastapi import FastAPI
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from faultline.shop import problems, statuses
from faultline.shop.errors import Problem, Violation

KEY = "grpc-status-details-bin"
NAMES = st.from_regex(r"[a-z]{1,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
VIOLATIONS = st.lists(st.builds(Violation, field=st.text(max_size=20), detail=st.text(max_size=20)), max_size=4)


def raised(status: Status) -> AioRpcError:
    """As a client sees it."""
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return AioRpcError(code, Metadata(), Metadata((KEY, status.SerializeToString())), status.message)


def said(problem: Problem) -> tuple[object, ...]:
    return problem.status, problem.name, problem.detail, problem.retry_after, problem.violations


@given(
    st.sampled_from([400, 401, 403, 404, 409, 410, 412, 418, 422, 429, 500, 501, 502, 503, 504]),
    NAMES,
    st.text(max_size=50),
    st.none() | st.integers(0, 10**6).map(lambda milliseconds: milliseconds / 1000),
    VIOLATIONS,
)
def test_a_problem_comes_back_as_it_was(
    status: int, name: str, detail: str, after: float | None, violations: list[Violation]
) -> None:
    problem = Problem(status, name, detail, retry_after=after, violations=violations)
    assert said(statuses.problem(raised(statuses.status(problem)))) == said(problem)


@pytest.mark.parametrize(
    ("code", "status"), [(code, 502 if code is grpc.StatusCode.OK else statuses.HTTP[code]) for code in grpc.StatusCode]
)
def test_every_code_means_something_over_http(code: grpc.StatusCode, status: int) -> None:
    """Also without details, as from a proxy; and what such a one says is not passed on."""
    bare = statuses.problem(AioRpcError(code, Metadata(), Metadata(), "connect to ipv4:127.0.0.1:8070 failed"))
    assert bare.status == status
    assert "8070" not in str(bare)


def test_one_number_of_http_becomes_the_code_that_is_asked_for() -> None:
    exists = statuses.status(Problem(409, "asked-otherwise", "before"), grpc.StatusCode.ALREADY_EXISTS)
    assert statuses.problem(raised(exists)).status == 409
    assert raised(exists).code() is grpc.StatusCode.ALREADY_EXISTS
    assert raised(statuses.status(Problem(409, "refused", "sold"))).code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("spoiled", [b"", b"\xff\xff\xff", Status(code=5, message="other").SerializeToString()])
def test_details_that_are_none_are_left_alone(spoiled: bytes) -> None:
    error = AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata((KEY, spoiled)), "away")
    assert (statuses.problem(error).status, statuses.problem(error).name) == (503, "unavailable")


def test_details_of_a_stranger_are_not_taken_for_ours() -> None:
    status = statuses.status(Problem(404, "unknown", "secret"))
    status.details[0].value = status.details[0].value.replace(statuses.DOMAIN.encode(), b"shop.elsewhere")
    assert "secret" not in str(statuses.problem(raised(status)))
    status.details[0].value = b"\xff\xff"
    assert statuses.problem(raised(status)).status == 404


async def answered(app: FastAPI, path: str) -> list[Message]:
    """What the application sends over ASGI."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "root_path": ""}
    await app({**scope, "scheme": "http", "http_version": "1.1", "server": ("here", 80)}, receive, send)
    return sent


async def test_a_route_that_passes_on_what_another_said_answers_with_its_problem() -> None:
    app = FastAPI()
    problems.handle(app)
    problem = Problem(503, "crowded", "no turn", retry_after=2.5, violations=[Violation("lines[0].sku", "none")])

    @app.get("/")
    async def fails() -> None:
        raise raised(statuses.status(problem))

    start, body = await answered(app, "/")
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (503, b"application/problem+json")
    assert headers[b"retry-after"] == b"3"
    for part in (b'"/problems/crowded"', b'"no turn"', b'"errors":[{"field":"lines[0].sku","detail":"none"}]'):
        assert part in body["body"]
