"""The index in OpenSearch: what is written into it, how another takes its place, and what it is asked.

    NAME          alias: the index that is searched
    NAME-7        an index of products; while it is filled, events go into the one before and into it
    NAME-7-in     alias: NAME-7 takes events. Nothing is written to an index by its own name, and no alias is made by
                  writing to it: so nothing that comes too late makes a deleted index again
    NAME.stores   where the stores are

**Two writers.** A document is read with its number, what it becomes is decided by `domain.merged`, and it is written
only if it still has that number: otherwise once more. So nothing that is written is older than what it replaces, and a
level of stock, which has no version, was asked for after the one that it replaces had been written.

**Which indices take events** is asked for anew for each batch, after its events were heard. So a rebuild that opens
an index before it reads the catalog misses none: what went into the old one alone had happened before it reads.

All that is asked may raise `Unreachable`: nothing is known of whether a write has happened. Each may be repeated.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from faultline.shop.contracts import Money
from faultline.shop.search import queries
from faultline.shop.search.cluster import SLOWLY, WITHIN, Refused, Unreachable
from faultline.shop.search.domain import Details, Document, News, merged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from faultline.shop.search.cluster import Cluster
    from faultline.shop.search.domain import Wanted
    from faultline.shop.search.queries import Body

    Decide = Callable[[Sequence[str]], Awaitable[Mapping[str, Sequence[News]]]]
    """What there is to tell of these products, asked for after they were read: of those that are left."""

AT_ONCE = 500  # documents read in one go
ROUNDS = 20  # in which somebody else was quicker at the same document, before it is left for later
GONE, LOST_RACE, FAULTY = 404, 409, 400


class NothingToSearch(Unreachable):
    """There is no index yet: it is being filled for the first time."""


class _Source(msgspec.Struct, kw_only=True):
    sku: str
    details_version: int
    price_version: int
    gone_version: int
    available: int | None = None
    name: str | None = None
    description: str = ""
    brand: str = ""
    category: str = ""
    attributes: dict[str, str] = {}
    cents: int | None = None
    currency: str = "EUR"
    in_stock: bool = False
    version: int = 0

    def document(self) -> Document:
        details = None
        if self.name is not None:
            details = Details(
                name=self.name,
                description=self.description,
                brand=self.brand,
                category=self.category,
                attributes=self.attributes,
            )
        return Document(
            sku=self.sku,
            details=details,
            details_version=self.details_version,
            price=None if self.cents is None else Money(self.cents, self.currency),
            price_version=self.price_version,
            gone_version=self.gone_version,
            available=self.available,
        )


class _Got(msgspec.Struct):
    index: str = msgspec.field(name="_index")
    id: str = msgspec.field(name="_id")
    found: bool = False
    seq_no: int = msgspec.field(name="_seq_no", default=0)
    term: int = msgspec.field(name="_primary_term", default=0)
    source: _Source | None = msgspec.field(name="_source", default=None)


class _Many(msgspec.Struct):
    docs: list[_Got]


class _Aliases(msgspec.Struct):
    aliases: dict[str, Any]


class _Done(msgspec.Struct):
    status: int
    error: Any = None


class _Written(msgspec.Struct):
    items: list[dict[str, _Done]]


class _Hit(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    sort: list[Any]
    source: _Source | None = msgspec.field(name="_source", default=None)
    score: float | None = msgspec.field(name="_score", default=None)


class _Total(msgspec.Struct):
    value: int


class _Hits(msgspec.Struct):
    hits: list[_Hit]
    total: _Total | None = None


class _Bucket(msgspec.Struct):
    key: str
    doc_count: int


class _Buckets(msgspec.Struct):
    buckets: list[_Bucket]


class _Facet(msgspec.Struct):
    values: _Buckets


class _Page(msgspec.Struct):
    hits: _Hits
    aggregations: dict[str, _Facet] = {}
    suggest: dict[str, Any] = {}


class _StoreSource(msgspec.Struct):
    id: str
    name: str
    city: str
    place: dict[str, float]


class _StoreHit(msgspec.Struct):
    source: _StoreSource = msgspec.field(name="_source")
    sort: list[Any]


class _StoreHits(msgspec.Struct):
    hits: list[_StoreHit]


class _StorePage(msgspec.Struct):
    hits: _StoreHits


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of what was looked for."""

    documents: Sequence[Document]
    total: int
    counts: Mapping[str, Mapping[str, int]] | None
    """By facet and value; None on a later page."""
    after: Sequence[Any] | None
    """The place of the last document; None where there are no more."""
    meant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Something whose words begin so."""

    text: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where something can be fetched; `kilometres` from where somebody is."""

    id: str
    name: str
    city: str
    latitude: float
    longitude: float
    kilometres: float = 0.0


class Index:
    """All indices of products there are: the one that is searched, and the one that is to take its place."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self.name = cluster, name

    async def ready(self) -> None:
        """Raises unless there is an index that can be searched."""
        if await self.searched() is None:
            raise NothingToSearch("the index is being filled for the first time")

    async def searched(self) -> str | None:
        """The index behind the alias; None if there is none yet."""
        return next((index for index, aliases in (await self._aliases()).items() if self.name in aliases), None)

    async def takes_events(self) -> list[str]:
        """The aliases to write to, of all indices that events go into."""
        return [alias for index, found in (await self._aliases()).items() if (alias := entrance(index)) in found]

    async def _aliases(self) -> dict[str, set[str]]:
        found = await self._cluster.ask("GET", f"{self.name}-*/_alias", kind=dict[str, _Aliases])
        return {index: set(one.aliases) for index, one in found.items()}

    async def write(self, skus: Sequence[str], decide: Decide, *, into: Sequence[str] | None = None) -> None:
        """Let what is known of these products become what it is with the news.

        `into`: aliases of indices; None: all that take events, as there are when it is written. Raises
        `NothingToSearch` if there are none, and `Refused` for what no document can be.
        """
        left = list(dict.fromkeys(skus))
        for _ in range(ROUNDS):
            targets = list(into) if into is not None else await self.takes_events()
            if not targets:
                raise NothingToSearch(f"no index of {self.name} takes events yet")
            read = await self._read(targets, left)
            news = await decide(left)
            changed = [(got, after) for got in read if (after := _changed(got, news))]
            again = await self._written(changed, gone_is_fine=into is None) if changed else set[str]()
            if not again:
                return
            left = [sku for sku in left if sku in again]
        raise Unreachable(f"{', '.join(left[:5])}: others are quicker, again and again")

    async def _written(self, changed: Sequence[tuple[_Got, Document]], *, gone_is_fine: bool) -> set[str]:
        """The products of which somebody else has written meanwhile, or, if that is fine, whose index has gone."""
        lines = b"".join(_line(got, after) for got, after in changed)
        done = await self._cluster.ask("POST", "_bulk?require_alias=true", lines, kind=_Written, within=SLOWLY)
        again: set[str] = set()
        for (got, _), item in zip(changed, done.items, strict=True):
            again |= _outcome(got.id, next(iter(item.values())), gone_is_fine=gone_is_fine)
        return again

    async def _read(self, targets: Sequence[str], skus: Sequence[str]) -> list[_Got]:
        wanted = [{"_index": target, "_id": sku} for target in targets for sku in skus]
        found: list[_Got] = []
        for first in range(0, len(wanted), AT_ONCE):
            some = wanted[first : first + AT_ONCE]
            answer = await self._cluster.ask("POST", "_mget", {"docs": some}, kind=_Many)
            for asked, got in zip(some, answer.docs, strict=True):
                got.index = asked["_index"]
                found.append(got)
        return found

    async def documents(self, skus: Sequence[str]) -> dict[str, Document]:
        """What the index that is searched knows of these, whether or not it is to be found; as it was written last."""
        try:
            found = await self._read([self.name], skus)
        except Refused as error:
            raise NothingToSearch(str(error)) from error
        return {got.id: got.source.document() for got in found if got.source}

    async def page(self, wanted: Wanted, *, limit: int, after: Sequence[Any] | None) -> Found:
        """What fits, the best first."""
        page = await self._search(queries.page(wanted, limit=limit, after=after))
        hits = page.hits.hits
        counts = {
            facet: {bucket.key: bucket.doc_count for bucket in page.aggregations[facet].values.buckets}
            for facet in page.aggregations
        }
        return Found(
            documents=[hit.source.document() for hit in hits if hit.source],
            total=page.hits.total.value if page.hits.total else 0,
            counts=None if after is not None else counts,
            after=hits[-1].sort if len(hits) == limit else None,
            meant=queries.corrected(wanted.text, page.suggest["meant"]) if "meant" in page.suggest else None,
        )

    async def begun(self, text: str, *, limit: int) -> list[Begun]:
        """What there is whose words begin so, the most frequent of each kind first."""
        page = await self._search(queries.begun(text, limit=limit))
        return [
            Begun(text=bucket.key, kind=kind, count=bucket.doc_count)
            for kind in queries.KINDS
            for bucket in page.aggregations[kind].values.buckets
        ][:limit]

    async def listed(self, *, at_once: int) -> AsyncIterator[list[str]]:
        """The skus of all that is to be found, page by page."""
        after: str | None = None
        while hits := (await self._search(queries.listed(after=after, limit=at_once))).hits.hits:
            yield [hit.id for hit in hits]
            after = hits[-1].sort[0]

    async def unlisted(self, *, at_once: int) -> AsyncIterator[list[Document]]:
        """All that is kept and not to be found, page by page."""
        after: str | None = None
        while hits := (await self._search(queries.unlisted(after=after, limit=at_once))).hits.hits:
            yield [hit.source.document() for hit in hits if hit.source]
            after = hits[-1].sort[0]

    async def _search(self, body: Body) -> _Page:
        path = f"{self.name}/_search?cancel_after_time_interval={WITHIN:.0f}s"
        try:
            return await self._cluster.ask("POST", path, body, kind=_Page)
        except Refused as error:
            if error.status == GONE:
                raise NothingToSearch(str(error)) from error
            raise

    async def refresh(self) -> None:
        """Have all that is written be found."""
        await self._cluster.ask("POST", f"{self.name}-*/_refresh", kind=dict, within=SLOWLY)

    async def begin(self) -> str:
        """Make an index that takes events from now on, and is not searched; its name."""
        numbers = [int(index.rpartition("-")[2]) for index in await self._aliases()]
        fresh = f"{self.name}-{max(numbers, default=0) + 1}"
        body: Body = {"settings": queries.SETTINGS, "mappings": queries.MAPPING, "aliases": {entrance(fresh): {}}}
        await self._cluster.ask("PUT", fresh, body, kind=dict, within=SLOWLY)
        return fresh

    async def put_in_place(self, fresh: str) -> list[str]:
        """Have this one searched from now on, and no other take events, in one step; those that can be removed."""
        await self._cluster.ask("POST", f"{entrance(fresh)}/_refresh", kind=dict, within=SLOWLY)
        aliases = await self._aliases()
        others = [index for index in aliases if index != fresh]
        actions: list[Body] = [{"add": {"index": fresh, "alias": self.name}}]
        actions += [
            {"remove": {"index": index, "alias": alias}} for index in others for alias in sorted(aliases[index])
        ]
        await self._cluster.ask("POST", "_aliases", {"actions": actions}, kind=dict, within=SLOWLY)
        return others

    async def remove(self, index: str) -> None:
        """Have there be none of that name, and no alias of it."""
        with suppress(Refused):  # it is gone already
            await self._cluster.ask("DELETE", index, kind=dict, within=SLOWLY)

    async def remove_what_is_not_searched(self) -> list[str]:
        """Remove what a rebuild has left that did not come to its end; which indices these were."""
        left = [index for index, aliases in (await self._aliases()).items() if self.name not in aliases]
        for index in left:
            await self.remove(index)
        return left


class Stores:
    """Where the stores are."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, f"{name}.stores"

    async def put(self, stores: Iterable[Store]) -> None:
        """Have these be there; others stay."""
        with suppress(Refused):  # it is there
            await self._cluster.ask("PUT", self._name, queries.STORES, kind=dict, within=SLOWLY)
        lines = b"".join(
            _json({"index": {"_id": one.id}})
            + _json(
                {
                    "id": one.id,
                    "name": one.name,
                    "city": one.city,
                    "place": {"lat": one.latitude, "lon": one.longitude},
                }
            )
            for one in stores
        )
        await self._cluster.ask("POST", f"{self._name}/_bulk?refresh=true", lines, kind=dict, within=SLOWLY)

    async def near(self, latitude: float, longitude: float, *, limit: int, kilometres: float) -> list[Store]:
        """Those within so many kilometres, the nearest first; none if nobody has said where any are."""
        body = queries.near(latitude, longitude, limit=limit, kilometres=kilometres)
        try:
            found = await self._cluster.ask("POST", f"{self._name}/_search", body, kind=_StorePage)
        except Refused as error:
            if error.status == GONE:
                return []
            raise
        return [
            Store(
                id=hit.source.id,
                name=hit.source.name,
                city=hit.source.city,
                latitude=hit.source.place["lat"],
                longitude=hit.source.place["lon"],
                kilometres=round(hit.sort[0], 3),
            )
            for hit in found.hits.hits
        ]


def entrance(index: str) -> str:
    """The alias by which an index takes events."""
    return f"{index}-in"


def _changed(got: _Got, news: Mapping[str, Sequence[News]]) -> Document | None:
    """What it becomes; None if it stays as it is."""
    before = got.source.document() if got.source else Document(sku=got.id)
    after = merged(before, news.get(got.id, ()))
    return None if after == before else after


def _line(got: _Got, after: Document) -> bytes:
    """Two lines of a bulk: written only if it is still what was read."""
    where: Body = {"_index": got.index, "_id": got.id}
    if got.source:
        head: Body = {"index": {**where, "if_seq_no": got.seq_no, "if_primary_term": got.term}}
    else:
        head = {"create": where}
    return _json(head) + _json(queries.source(after))


def _outcome(sku: str, done: _Done, *, gone_is_fine: bool) -> set[str]:
    """The product, if it is to be tried again. Raises `Refused` and `Unreachable`."""
    if done.status < 300:
        return set()
    if done.status == LOST_RACE or (done.status == GONE and gone_is_fine):
        return {sku}
    told = json.dumps(done.error)
    if done.status in {FAULTY, GONE}:
        raise Refused(done.status, f"{sku}: {told}")
    raise Unreachable(f"{sku}: {done.status} {told[:300]}")


def _json(body: Body) -> bytes:
    return msgspec.json.encode(body) + b"\n"
