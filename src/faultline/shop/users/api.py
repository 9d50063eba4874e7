"""The routes and bodies of accounts: who somebody is, where they are logged in, and their API keys."""

from collections.abc import Awaitable
from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import APIRouter, Cookie, Path, Response
from pydantic import BaseModel, Field, SecretStr

from faultline.patterns import BulkheadFull, Session, SessionStore
from faultline.shop.callers import Asking, Caller
from faultline.shop.contracts import Role, Scope
from faultline.shop.errors import Problem
from faultline.shop.problems import raises
from faultline.shop.users import domain
from faultline.shop.users.domain import Account, Refused
from faultline.shop.users.passwords import Passwords
from faultline.shop.users.store import Accounts, ApiKeys, Grants
from faultline.shop.users.tokens import OURS, Token, Tokens

T = TypeVar("T")

COOKIE = "session"
SOON = 1.0  # seconds after which who was refused for being one too many may ask again

Name = Annotated[str, Path(min_length=1, max_length=100)]
SessionId = Annotated[str, Cookie(alias=COOKIE, description="the session that `POST /v1/sessions` has begun")]


class Credentials(BaseModel):
    """What somebody logs in with."""

    email: str = Field(max_length=254)
    password: SecretStr = Field(min_length=10, max_length=200)


class LogIn(Credentials):
    """With what, and where: `device` is shown in the list of sessions."""

    device: str = Field(default="", max_length=100)


class AccountBody(BaseModel):
    """Somebody."""

    id: str
    email: str
    role: Role


class NewRole(BaseModel):
    """What somebody is to be."""

    role: Role


class SessionBody(BaseModel):
    """Where somebody is logged in; `ends_in`: seconds, if it is not used again."""

    handle: str
    device: str
    ends_in: float


class NewKey(BaseModel):
    """What an API key is for."""

    name: str = Field(min_length=1, max_length=100)
    scopes: list[Scope] = Field(min_length=1)


class KeyBody(BaseModel):
    """An API key; `id` is what it begins with."""

    id: str
    name: str
    scopes: list[Scope]
    made_at: datetime
    used_at: datetime | None


class MadeKey(BaseModel):
    """A new API key: this is the only time that it is shown."""

    id: str
    key: str


class Api:
    """The routes over these."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        passwords: Passwords,
        sessions: SessionStore,
        grants: Grants,
        keys: ApiKeys,
        tokens: Tokens,
    ) -> None:
        self._accounts, self._passwords, self._sessions = accounts, passwords, sessions
        self._grants, self._keys, self._tokens = grants, keys, tokens

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["users"])
        router.post("/users", status_code=201, responses=raises(409))(self.register)
        router.get("/users/{user}", responses=raises(404))(self.account)
        router.delete("/users/{user}", status_code=204, responses=raises(404))(self.erase)
        router.put("/users/{user}/role", responses=raises(404))(self.promote)
        router.post("/sessions", status_code=201, responses=raises(401))(self.log_in)
        router.get("/sessions")(self.sessions)
        router.delete("/sessions", status_code=204)(self.log_out_everywhere)
        router.post("/sessions/current/tokens", responses=raises(401))(self.token)
        router.delete("/sessions/current", status_code=204)(self.log_out)
        router.delete("/sessions/{handle}", status_code=204, responses=raises(404))(self.log_out_there)
        router.post("/api-keys", status_code=201, responses=raises(404))(self.make_key)
        router.get("/api-keys")(self.keys)
        router.delete("/api-keys/{key}", status_code=204, responses=raises(404))(self.revoke_key)
        return router

    async def register(self, new: Credentials, response: Response) -> AccountBody:
        """Have an account, as a customer. 409 if the address has one: then log in."""
        email = _address(new.email)
        kept = await _patiently(self._passwords.hashed(new.password.get_secret_value()))
        account = await self._accounts.register(email, kept, Role.CUSTOMER)
        if account is None:
            raise Problem(409, "email-taken", "there is an account with this address")
        response.headers["Location"] = f"/v1/users/{account.id}"
        return _body(account)

    async def account(self, user: Name, caller: Asking) -> AccountBody:
        """Who that is."""
        return _body(await self._known(user, caller))

    async def erase(self, user: Name, caller: Asking) -> None:
        """Forget who that was, for good. Their sessions, tokens and API keys end; repeating it is safe."""
        if not caller.reaches(user):
            raise _unknown(user)
        await self._accounts.erase(user)
        await self._sessions.revoke_all(user)

    async def promote(self, user: Name, new: NewRole, caller: Asking) -> AccountBody:
        """Give somebody another role. Access tokens that they hold say the old one for five minutes at most."""
        if new.role not in {Role.CUSTOMER, Role.SUPPORT, Role.ADMIN}:
            raise Problem(422, "no-role", f"nobody can be made {new.role}")
        if not caller.reaches(user) or not (account := await self._accounts.promote(user, new.role)):
            raise _unknown(user)
        return _body(account)

    async def log_in(self, who: LogIn, response: Response) -> SessionBody:
        """Begin a session, whose id is the cookie `session`. 401 tells nothing of what was wrong."""
        found = await self._accounts.password(_address(who.email))
        user, kept = found or ("", None)
        if not await _patiently(self._passwords.fits(who.password.get_secret_value(), kept)):
            raise Problem(401, "wrong-credentials", "no account has this address and this password")
        session = await self._sessions.create(user, device=who.device)
        response.set_cookie(COOKIE, session.id, path="/", httponly=True, samesite="lax", secure=self._tokens.is_secure)
        return _session(session)

    async def sessions(self, caller: Asking) -> list[SessionBody]:
        """Where you are logged in."""
        return [_session(one) for one in await self._sessions.list(caller.user)]

    async def token(self, response: Response, session: SessionId = "") -> Token:
        """An access token of this session's user, for our own pages; the session goes on by that."""
        found = await self._sessions.load(session)
        account = await self._accounts.find(found.user_id) if found else None
        if account is None:
            raise Problem(401, "no-session", "log in")
        response.headers["Cache-Control"] = "no-store"
        return await self._tokens.of(account, client=OURS, scopes=domain.MAY_HAVE[account.role])

    async def log_out(self, response: Response, session: SessionId = "") -> None:
        """End this session; repeating it is safe. An access token that it gave lives for five minutes at most."""
        await self._sessions.revoke(session)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax", secure=self._tokens.is_secure)

    async def log_out_there(self, handle: Name, caller: Asking) -> None:
        """End one of your sessions. 404 if you have no such one (any more)."""
        if handle not in {one.handle for one in await self._sessions.list(caller.user)}:
            raise Problem(404, "unknown-session", f"you have no session {handle}")
        await self._sessions.revoke(handle)

    async def log_out_everywhere(self, caller: Asking) -> None:
        """End all your sessions, and all refresh tokens that you have ever allowed. Repeating it is safe."""
        await self._grants.revoke_all(caller.user)
        await self._sessions.revoke_all(caller.user)

    async def make_key(self, new: NewKey, caller: Asking, response: Response) -> MadeKey:
        """An API key that acts for you, within these scopes. It is exchanged for tokens at `/v1/oauth/token`."""
        account = await self._known(caller.user, caller)
        try:
            scopes = domain.scopes(new.scopes, domain.delegable(account.role))
        except Refused as error:
            raise Problem(422, "invalid-scope", str(error)) from error
        public, key = await self._keys.add(account.id, new.name, scopes)
        response.headers["Cache-Control"] = "no-store"
        return MadeKey(id=public, key=key)

    async def keys(self, caller: Asking) -> list[KeyBody]:
        """Your API keys, and when each was used last."""
        return [
            KeyBody(id=key.id, name=key.name, scopes=sorted(key.scopes), made_at=key.made_at, used_at=key.used_at)
            for key in await self._keys.of(caller.user)
        ]

    async def revoke_key(self, key: Name, caller: Asking) -> None:
        """Revoke one of your API keys; repeating it is safe. Tokens that it gave live for five minutes at most."""
        if not await self._keys.revoke(key, caller.user):
            raise Problem(404, "unknown-key", f"you have no API key {key}")

    async def _known(self, user: str, caller: Caller) -> Account:
        account = await self._accounts.find(user) if caller.reaches(user) else None
        if account is None:
            raise _unknown(user)
        return account


async def _patiently(work: Awaitable[T]) -> T:
    try:
        return await work
    except BulkheadFull as error:
        raise Problem(503, "overloaded", "too many log in at once", retry_after=SOON) from error


def _address(email: str) -> str:
    try:
        return domain.address(email)
    except Refused as error:
        raise Problem(422, "invalid", f"email: {error}") from error


def _unknown(user: str) -> Problem:
    return Problem(404, "unknown-user", f"there is no user {user}, or not for you")


def _body(account: Account) -> AccountBody:
    return AccountBody(id=account.id, email=account.email or "", role=account.role)


def _session(session: Session) -> SessionBody:
    return SessionBody(handle=session.handle, device=session.fields.get("device", ""), ends_in=session.ends_in)
