"""One failure in two languages: a `Problem` of HTTP as a status of gRPC with its details, and back.

    await statuses.abort(context, Problem(422, "invalid", "…", violations=[Violation("seconds", "is negative")]))

    except grpc.aio.AioRpcError as error:
        raise statuses.problem(error) from error

| of the problem                | in `google.rpc.Status`                                       |
|-------------------------------|--------------------------------------------------------------|
| status                        | code, by `HTTP`; as it was, in `ErrorInfo.metadata`          |
| name, as `too-few`            | `ErrorInfo.reason`, as `TOO_FEW`, in the domain `DOMAIN`     |
| retry_after                   | `RetryInfo`                                                  |
| violations                    | `BadRequest`                                                 |

A status without `ErrorInfo` of ours comes from the library or from a proxy on the way. Its code is translated; its
message is not passed on, since it tells addresses.
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from faultline.shop.errors import Problem, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

Detail = TypeVar("Detail", BadRequest, ErrorInfo, RetryInfo)

DOMAIN = "shop.faultline"
HTTP: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 410,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.INTERNAL: 502,  # a defect of the one who was asked is not one of the asker's
    grpc.StatusCode.UNKNOWN: 502,
    grpc.StatusCode.DATA_LOSS: 502,
}
"""What a status means to whoever asked over HTTP. Where several mean the same, the first is what that becomes."""
OTHERS = {400: grpc.StatusCode.INVALID_ARGUMENT, 412: grpc.StatusCode.FAILED_PRECONDITION}


def status(problem: Problem, code: grpc.StatusCode | None = None) -> Status:
    """The problem as gRPC has it; `code`, where HTTP has one number for several."""
    code = code or _code(problem.status)
    number: int = code.value[0]
    metadata = {"http_status": str(problem.status)}
    details: list[BadRequest | ErrorInfo | RetryInfo] = [
        ErrorInfo(reason=problem.name.upper().replace("-", "_"), domain=DOMAIN, metadata=metadata)
    ]
    if problem.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(problem.retry_after * 1000))
        details.append(RetryInfo(retry_delay=delay))
    if problem.violations:
        fields = [BadRequest.FieldViolation(field=one.field, description=one.detail) for one in problem.violations]
        details.append(BadRequest(field_violations=fields))
    return Status(code=number, message=problem.detail, details=[_packed(detail) for detail in details])


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], problem: Problem, code: grpc.StatusCode | None = None
) -> NoReturn:
    """End the call with the problem."""
    await context.abort_with_status(rpc_status.to_status(status(problem, code)))


def problem(error: grpc.aio.AioRpcError) -> Problem:
    """What whoever was asked has said; of what says nothing of ours, what its code means."""
    found = _details(error)
    info = _first(found, ErrorInfo)
    if info is None or info.domain != DOMAIN:
        name = error.code().name.lower().replace("_", "-")
        return Problem(HTTP.get(error.code(), 502), name, "the service behind this one has not done it")
    retry, bad = _first(found, RetryInfo), _first(found, BadRequest)
    return Problem(
        _http(info, error.code()),
        info.reason.lower().replace("_", "-"),
        error.details() or "",
        retry_after=None if retry is None else retry.retry_delay.ToMilliseconds() / 1000,
        violations=[Violation(one.field, one.description) for one in bad.field_violations] if bad else (),
    )


def _code(http: int) -> grpc.StatusCode:
    if http in OTHERS:
        return OTHERS[http]
    return next((code for code, number in HTTP.items() if number == http), grpc.StatusCode.UNKNOWN)


def _http(info: ErrorInfo, code: grpc.StatusCode) -> int:
    """As it was; `HTTPStatus` must know it, whoever has written the metadata."""
    told = info.metadata.get("http_status", "")
    known = told.isdecimal() and int(told) in {one.value for one in HTTPStatus}
    return int(told) if known else HTTP.get(code, 502)


def _details(error: grpc.aio.AioRpcError) -> Iterable[Packed]:
    try:
        found: Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]  # what it asks is all there
    except (ValueError, DecodeError):  # details of something else than this status, or none at all
        return ()
    return found.details if found else ()


def _packed(detail: BadRequest | ErrorInfo | RetryInfo) -> Packed:
    packed = Packed()
    packed.Pack(detail)
    return packed


def _first(details: Iterable[Packed], kind: type[Detail]) -> Detail | None:
    for packed in details:
        found = kind()
        with suppress(DecodeError):  # somebody else's, under a name of these
            if packed.Unpack(found):
                return found
    return None
