"""The authorization server: OAuth 2.1 with code + PKCE, client credentials and refresh tokens; metadata and keys.

    browser ── GET  /v1/oauth/authorize?… ──► what is asked for, to be shown to whoever is logged in
            ── POST /v1/oauth/authorize    ──► 303, back to the client with a code
    client  ── POST /v1/oauth/token        ──► tokens
            ── POST /v1/oauth/revoke       ──► 200, also for what is unknown (RFC 7009)

Refusals at `/token` and `/revoke` are what RFC 6749 has for them and not our problems: libraries read those.
"""

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, RedirectResponse

from faultline.patterns import SessionStore
from faultline.shop.contracts import FIRST_HAND, Role, Scope
from faultline.shop.errors import Problem
from faultline.shop.problems import raises
from faultline.shop.users import domain
from faultline.shop.users.api import SessionId
from faultline.shop.users.domain import Account, Asked, Client, Refused
from faultline.shop.users.keys import Keys
from faultline.shop.users.store import Accounts, ApiKeys, Clients, Granted, Grants
from faultline.shop.users.tokens import Token, Tokens

OUTSIDE = "/api"  # what the gateway's addresses begin with
BY_CODE, BY_REFRESH, BY_CLIENT = "authorization_code", "refresh_token", "client_credentials"
BY_KEY = "urn:faultline:params:oauth:grant-type:api-key"
NEEDED = {"client_id", "redirect_uri"}
NO_STORE = {"Cache-Control": "no-store"}


class NewClient(BaseModel):
    """A program that is to ask for tokens; one in a browser or a telephone keeps no secrets."""

    name: str = Field(min_length=1, max_length=100)
    redirect_uris: list[str] = Field(default_factory=list[str], max_length=10)
    scopes: list[Scope] = Field(min_length=1)
    keeps_secrets: bool = Field(default=False, strict=True)


class MadeClient(BaseModel):
    """A new client; its secret is shown this once, and is null for one that keeps none."""

    client_id: str
    client_secret: str | None


class Consent(BaseModel):
    """What a client asks a user for."""

    client: str
    scopes: list[str]
    user: str


class RefusalBody(BaseModel):
    """A refusal as RFC 6749 has it."""

    error: str
    error_description: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": RefusalBody, "description": "refused, as RFC 6749 has it"},
    401: {"model": RefusalBody, "description": "no such client, or not with this secret"},
}
QUESTION = [
    {"name": name, "in": "query", "required": name in NEEDED, "schema": {"type": "string"}}
    for name in ("client_id", "redirect_uri", "state", "scope")
]


class OAuthError(Exception):
    """A refusal as RFC 6749 names it."""

    def __init__(self, error: str, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.error, self.status = error, status


class OAuth:
    """The routes over these."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        clients: Clients,
        grants: Grants,
        api_keys: ApiKeys,
        sessions: SessionStore,
        keys: Keys,
        tokens: Tokens,
    ) -> None:
        self._accounts, self._clients, self._grants, self._api_keys = accounts, clients, grants, api_keys
        self._sessions, self._keys, self._tokens = sessions, keys, tokens
        self._by: Mapping[str, Callable[[dict[str, str], Client], Awaitable[Token]]] = {
            BY_CODE: self._code,
            BY_REFRESH: self._refresh,
            BY_CLIENT: self._itself,
        }

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(tags=["oauth"])
        router.get("/v1/oauth/authorize", responses=raises(400, 401), openapi_extra={"parameters": QUESTION})(
            self.asked
        )
        router.post(
            "/v1/oauth/authorize",
            status_code=303,
            response_class=RedirectResponse,
            responses=raises(400, 401, 415, 422),
            openapi_extra=_takes("client_id", "redirect_uri", "state", "scope", "decision"),
        )(self.answer)
        router.post(
            "/v1/oauth/token",
            response_model=Token,
            responses=REFUSALS | raises(415, 422),
            openapi_extra=_takes(
                "grant_type", "client_id", "client_secret", "scope", "code", "refresh_token", "api_key"
            ),
        )(self.token)
        router.post(
            "/v1/oauth/revoke",
            response_class=Response,
            responses=REFUSALS | raises(415, 422),
            openapi_extra=_takes("client_id", "client_secret", "token"),
        )(self.revoke)
        router.post("/v1/oauth/clients", status_code=201)(self.add_client)
        router.get("/v1/oauth/jwks")(self.jwks)
        router.get("/.well-known/oauth-authorization-server")(self.metadata)
        return router

    async def metadata(self) -> dict[str, Any]:
        """What a client has to know (RFC 8414)."""
        at = f"{self._tokens.issuer}{OUTSIDE}/v1/oauth"
        return {
            "issuer": self._tokens.issuer,
            "authorization_endpoint": f"{at}/authorize",
            "token_endpoint": f"{at}/token",
            "revocation_endpoint": f"{at}/revoke",
            "jwks_uri": f"{at}/jwks",
            "scopes_supported": sorted(Scope),
            "response_types_supported": ["code"],
            "grant_types_supported": [*self._by, BY_KEY],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
            "authorization_response_iss_parameter_supported": True,
        }

    async def jwks(self, response: Response) -> dict[str, Any]:
        """The keys that access tokens are signed with, also those that will be, and were."""
        response.headers["Cache-Control"] = "max-age=60"
        return {"keys": await self._keys.published()}

    async def add_client(self, new: NewClient) -> MadeClient:
        """For administrators: register a program that asks for tokens."""
        try:
            uris = [domain.redirect_uri(uri) for uri in new.redirect_uris]
            scopes = domain.scopes(new.scopes, frozenset(Scope) - FIRST_HAND)
        except Refused as error:
            raise Problem(422, "invalid", str(error)) from error
        made = await self._clients.add(new.name, redirect_uris=uris, scopes=scopes, keeps_secrets=new.keeps_secrets)
        return MadeClient(client_id=made[0], client_secret=made[1] or None)

    async def asked(self, request: Request, session: SessionId = "") -> Consent:
        """What a client asks for, to be shown to the user who is logged in. 401: log in, and come again.

        What is wrong with the client or its `redirect_uri` is a 400 and leads nowhere; all else is said when the user
        has answered.
        """
        parameters = _parameters(request.query_params.multi_items())
        asked, account = await self._asked(parameters), await self._logged_in(session)
        return Consent(client=asked.client.name, scopes=parameters.get("scope", "").split(), user=account.id)

    async def answer(self, request: Request, session: SessionId = "") -> Response:
        """The user's answer: the parameters of the question, and `decision`, `allow` or `deny`. Back to the client.

        The cookie comes with no request from another site (`SameSite`), so nobody answers for the user.
        """
        parameters = _parameters(await _form(request))
        asked, account = await self._asked(parameters), await self._logged_in(session)
        try:
            told = {"code": await self._consented(asked, account, parameters)}
        except OAuthError as error:
            told = {"error": error.error, "error_description": str(error)}
        told |= {"iss": self._tokens.issuer, **({"state": asked.state} if asked.state else {})}
        back = f"{asked.redirect_uri}{'&' if '?' in asked.redirect_uri else '?'}{urlencode(told)}"
        return RedirectResponse(back, 303, {**NO_STORE, "Referrer-Policy": "no-referrer"})

    async def _asked(self, parameters: Mapping[str, str]) -> Asked:
        try:
            client = await self._clients.find(parameters.get("client_id", ""))
            return domain.asked(client, parameters.get("redirect_uri", ""), parameters.get("state", ""))
        except Refused as error:
            raise Problem(400, "invalid-client", str(error)) from error

    async def _logged_in(self, session: str) -> Account:
        found = await self._sessions.load(session)
        account = await self._accounts.find(found.user_id) if found else None
        if account is None:
            raise Problem(401, "no-session", "log in, and ask again")
        return account

    async def _consented(self, asked: Asked, account: Account, parameters: Mapping[str, str]) -> str:
        if parameters.get("response_type") != "code":
            raise OAuthError("unsupported_response_type", "response_type is code")
        challenge = parameters.get("code_challenge", "")
        if parameters.get("code_challenge_method") != "S256" or not domain.CHALLENGE.fullmatch(challenge):
            raise OAuthError("invalid_request", "PKCE is required, with S256")
        try:
            within = asked.client.scopes & domain.delegable(account.role)
            scopes = domain.scopes(parameters.get("scope", ""), within)
        except Refused as error:
            raise OAuthError("invalid_scope", str(error)) from error
        if parameters.get("decision") != "allow":
            raise OAuthError("access_denied", "the user does not want it")
        return await self._grants.consent(
            client=asked.client.id,
            user=account.id,
            redirect_uri=asked.redirect_uri,
            scopes=scopes,
            challenge=challenge,
        )

    async def token(self, request: Request) -> Response:
        """Tokens, for a code, a refresh token, a client's own secret, or an API key."""
        try:
            made = await self._granted(_strict(await _form(request)), request)
        except OAuthError as error:
            return _refusal(error)
        except Refused as error:
            return _refusal(OAuthError("invalid_grant", str(error)))
        return JSONResponse(made.model_dump(exclude_none=True), headers=NO_STORE)

    async def _granted(self, form: dict[str, str], request: Request) -> Token:
        kind = form.get("grant_type", "")
        if kind == BY_KEY:
            return await self._for_its_user(await self._api_keys.use(form.get("api_key", "")))
        if not (grant := self._by.get(kind)):
            raise OAuthError("unsupported_grant_type", f"grant_type is one of {', '.join([*self._by, BY_KEY])}")
        return await grant(form, await self._client(form, request))

    async def revoke(self, request: Request) -> Response:
        """Revoke a refresh token, and with it all of its consent. An access token cannot be: it ends by itself."""
        try:
            await self._revoked(_strict(await _form(request)), request)
        except OAuthError as error:
            return _refusal(error)
        return Response(headers=NO_STORE)

    async def _revoked(self, form: dict[str, str], request: Request) -> None:
        client, token = await self._client(form, request), form.get("token", "")
        if token.count(".") == 2:
            raise OAuthError("unsupported_token_type", f"an access token ends within {domain.ACCESS} s by itself")
        await self._grants.revoke(token, client=client.id)

    async def _client(self, form: Mapping[str, str], request: Request) -> Client:
        """Which client asks, by its secret if it has one."""
        name, secret = _basic(request) or (form.get("client_id", ""), form.get("client_secret", ""))
        client = await self._clients.find(name)
        if client is None or (client.secret is not None and not domain.is_secret(secret, client.secret)):
            raise OAuthError("invalid_client", "there is no such client with this secret", 401)
        return client

    async def _code(self, form: dict[str, str], client: Client) -> Token:
        granted = await self._grants.redeem(
            form.get("code", ""),
            client=client.id,
            redirect_uri=form.get("redirect_uri", ""),
            verifier=form.get("code_verifier", ""),
        )
        return await self._for_its_user(granted)

    async def _refresh(self, form: dict[str, str], client: Client) -> Token:
        return await self._for_its_user(await self._grants.refresh(form.get("refresh_token", ""), client=client.id))

    async def _itself(self, form: dict[str, str], client: Client) -> Token:
        if client.secret is None:
            raise OAuthError("unauthorized_client", "this client cannot show that it is itself")
        within = client.scopes & domain.MAY_HAVE[Role.PARTNER]
        try:
            scopes = domain.scopes(form.get("scope", "") or sorted(within), within)
        except Refused as error:
            raise OAuthError("invalid_scope", str(error)) from error
        return await self._tokens.of_client(client.id, scopes)

    async def _for_its_user(self, granted: Granted) -> Token:
        account = await self._accounts.find(granted.user)
        if account is None:
            raise Refused("there is no such user any more")
        scopes = granted.scopes & domain.delegable(account.role)  # by now: roles change
        return await self._tokens.of(account, client=granted.client, scopes=scopes, refresh=granted.refresh)


def _takes(*fields: str) -> dict[str, Any]:
    """A form as OpenAPI has it: which of its fields there must be depends on the others."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in fields}}
    return {"requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": schema}}}}


async def _form(request: Request) -> list[tuple[str, str]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Problem(415, "unsupported-media-type", "it takes application/x-www-form-urlencoded")
    body = await request.body()
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise Problem(422, "invalid", f"form: {error}") from error


def _parameters(pairs: list[tuple[str, str]]) -> dict[str, str]:
    try:
        return domain.query(pairs)
    except Refused as error:
        raise Problem(400, "invalid-request", str(error)) from error


def _strict(pairs: list[tuple[str, str]]) -> dict[str, str]:
    try:
        return domain.query(pairs)
    except Refused as error:
        raise OAuthError("invalid_request", str(error)) from error


def _basic(request: Request) -> tuple[str, str] | None:
    """Name and secret of `Authorization: Basic`, each form-encoded (RFC 6749, 2.3.1)."""
    kind, _, told = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(told, validate=True).decode().partition(":")
    except ValueError as error:  # what is no base64, no ASCII, or no UTF-8 inside
        raise OAuthError("invalid_client", "Authorization: Basic cannot be read", 401) from error
    return unquote_plus(name), unquote_plus(secret)


def _refusal(error: OAuthError) -> Response:
    headers = {**NO_STORE, **({"WWW-Authenticate": "Basic"} if error.status == 401 else {})}
    return JSONResponse({"error": error.error, "error_description": str(error)}, error.status, headers)
