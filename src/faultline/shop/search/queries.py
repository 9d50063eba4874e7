"""What the index is like, and what it is asked: all bodies that OpenSearch gets, in one place, and no I/O.

| field                               | analysed as                        | for                |
|-------------------------------------|------------------------------------|--------------------|
| `name`, `values`, `description`,    | `words`: folded, without stop      | the text           |
| `brand.words`, `category.words`     | words, stemmed; asked by synonyms  |                    |
| `brand`, `category`, `traits`,      | as they are                        | filters and facets |
| `cents`                             |                                    |                    |
| `….begun`                           | what each word begins with         | suggestions        |
| `spelling`                          | `plain`: folded, not stemmed       | "did you mean"     |

`listed` is true of what is to be found: others are kept, since they say up to which version something is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faultline.shop.search.domain import FACETS, RANGES, Document, Order, Wanted

Body = dict[str, Any]

SYNONYMS = (
    "cap, beanie, hat",
    "sneaker, trainer, boot, shoe",
    "backpack, rucksack, tote, bag",
    "cup, mug",
    "lantern, lamp",
    "seat, stool, chair",
    "blade, knife",
    "notepad, journal, notebook",
    "throw, plaid, blanket",
    "receiver, wireless, radio",
    "dark blue, navy",
    "beige, sand",
    "grey, gray, slate",
    "wool, merino",
)
"""When the text is analysed, not when a document is: another list needs no new index, only that it is closed once."""
MOST = 100  # values of a facet
LONGEST_BEGINNING = 15  # letters of a word that suggestions go by
TEXT = ("name^4", "category.words^3", "brand.words^3", "values^2", "description")
MUST_FIT = "2<75%"
"""Of one or two words all, of more three quarters: one that nothing has must not hide what the others have."""
WORDS = {"type": "text", "analyzer": "words", "search_analyzer": "asked"}
SETTINGS: Body = {
    "index": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "500ms", "max_result_window": 10_000},
    "analysis": {
        "filter": {
            "synonyms": {"type": "synonym_graph", "synonyms": list(SYNONYMS)},
            "stop": {"type": "stop", "stopwords": "_english_"},
            "beginnings": {"type": "edge_ngram", "min_gram": 2, "max_gram": LONGEST_BEGINNING},
            "shortened": {"type": "truncate", "length": LONGEST_BEGINNING},
        },
        "analyzer": {
            "words": {"tokenizer": "standard", "filter": ["lowercase", "asciifolding", "stop", "porter_stem"]},
            "asked": {
                "tokenizer": "standard",
                "filter": ["lowercase", "asciifolding", "stop", "porter_stem", "synonyms"],
            },
            "plain": {"tokenizer": "standard", "filter": ["lowercase", "asciifolding"]},
            "begun": {"tokenizer": "standard", "filter": ["lowercase", "asciifolding", "beginnings"]},
            "beginning": {"tokenizer": "standard", "filter": ["lowercase", "asciifolding", "shortened"]},
        },
    },
}
"""One shard: counts of facets are exact, and a word is as rare for every document."""
BEGUN = {"type": "text", "analyzer": "begun", "search_analyzer": "beginning"}
NAMED = {"type": "keyword", "copy_to": "spelling", "fields": {"words": WORDS, "begun": BEGUN}}
MAPPING: Body = {
    "dynamic": "strict",
    "properties": {
        "sku": {"type": "keyword"},
        "name": {
            **WORDS,
            "copy_to": "spelling",
            "fields": {"begun": BEGUN, "whole": {"type": "keyword", "ignore_above": 256}},
        },
        "description": WORDS,
        "brand": NAMED,
        "category": NAMED,
        "attributes": {"type": "object", "enabled": False},
        "traits": {"type": "keyword"},
        "values": {**WORDS, "copy_to": "spelling"},
        "spelling": {"type": "text", "analyzer": "plain"},
        "cents": {"type": "long"},
        "currency": {"type": "keyword"},
        "available": {"type": "long"},
        "in_stock": {"type": "boolean"},
        "listed": {"type": "boolean"},
        "version": {"type": "long"},
        "details_version": {"type": "long"},
        "price_version": {"type": "long"},
        "gone_version": {"type": "long"},
    },
}
STORES: Body = {
    "settings": {"index": {"number_of_shards": 1, "number_of_replicas": 0}},
    "mappings": {
        "dynamic": "strict",
        "properties": {
            "id": {"type": "keyword"},
            "name": {"type": "keyword"},
            "city": {"type": "keyword"},
            "place": {"type": "geo_point"},
        },
    },
}


def source(document: Document) -> Body:
    """The document as it lies in the index."""
    found: Body = {
        "sku": document.sku,
        "listed": document.listed,
        "version": document.version,
        "details_version": document.details_version,
        "price_version": document.price_version,
        "gone_version": document.gone_version,
        "available": document.available,
        "in_stock": bool(document.available),
    }
    if document.details:
        attributes = document.details.attributes
        found |= {
            "name": document.details.name,
            "description": document.details.description,
            "brand": document.details.brand,
            "category": document.details.category,
            "attributes": attributes,
            "traits": [trait(name, value) for name, value in sorted(attributes.items())],
            "values": list(attributes.values()),
        }
    if document.price:
        found |= {"cents": document.price.cents, "currency": document.price.currency}
    return found


def trait(name: str, value: str) -> str:
    """An attribute as a word to filter by."""
    return f"{name}:{value}"


def page(wanted: Wanted, *, limit: int, after: Sequence[object] | None) -> Body:
    """Products, the counts of the facets, and how the text may have been meant.

    What is chosen of facets filters the hits after they are counted, and each facet's counts only by the others:
    so its values say what there would be if they were chosen, too.
    """
    body: Body = {
        "size": limit,
        "track_total_hits": True,
        "query": {"bool": _looked_for(wanted)},
        "post_filter": {"bool": {"filter": [_chosen(facet, wanted) for facet in FACETS if wanted.chosen.get(facet)]}},
        "sort": _sorted(wanted.order),
        "aggs": {facet: _counted(facet, wanted) for facet in FACETS},
    }
    if after is not None:
        body["search_after"] = list(after)
        del body["aggs"]  # whoever reads on has them
    if wanted.text:
        body["suggest"] = {
            "meant": {
                "text": wanted.text,
                "term": {
                    "field": "spelling",
                    "suggest_mode": "missing",
                    "size": 1,
                    "prefix_length": 1,
                    "min_word_length": 3,
                    "sort": "score",
                },
            }
        }
    return body


def _looked_for(wanted: Wanted) -> Body:
    filters: list[Body] = [{"term": {"listed": True}}]
    if wanted.in_stock:
        filters.append({"term": {"in_stock": True}})
    filters += [
        {"terms": {"traits": sorted(trait(name, value) for value in values)}}
        for name, values in sorted(wanted.attributes.items())
    ]
    if not wanted.text:
        return {"filter": filters}
    fits = {
        "multi_match": {
            "query": wanted.text,
            "type": "cross_fields",
            "fields": list(TEXT),
            "minimum_should_match": MUST_FIT,
        }
    }
    preferred: list[Body] = [
        {"match_phrase": {"name": {"query": wanted.text, "slop": 1, "boost": 2}}},
        {"constant_score": {"filter": {"term": {"in_stock": True}}, "boost": 0.5}},
    ]
    return {"must": [fits], "should": preferred, "filter": filters}


def _sorted(order: Order) -> list[Body]:
    first: Body = {
        Order.RELEVANCE: {"_score": "desc"},
        Order.CHEAPEST: {"cents": "asc"},
        Order.DEAREST: {"cents": "desc"},
    }[order]
    return [first, {"sku": "asc"}]


def _chosen(facet: str, wanted: Wanted) -> Body:
    values = sorted(wanted.chosen[facet])
    if facet != "price":
        return {"terms": {facet: values}}
    return {"bool": {"should": [{"range": {"cents": _bounds(value)}} for value in values], "minimum_should_match": 1}}


def _bounds(name: str) -> Body:
    one = RANGES[name]
    return {"gte": one.low} if one.high is None else {"gte": one.low, "lt": one.high}


def _counted(facet: str, wanted: Wanted) -> Body:
    others = [_chosen(other, wanted) for other in FACETS if other != facet and wanted.chosen.get(other)]
    return {"filter": {"bool": {"filter": others}}, "aggs": {"values": _values(facet)}}


def _values(facet: str) -> Body:
    if facet != "price":
        return {"terms": {"field": facet, "size": MOST}}
    ranges = [
        {"key": name, "from": one.low} if one.high is None else {"key": name, "from": one.low, "to": one.high}
        for name, one in RANGES.items()
    ]
    return {"range": {"field": "cents", "ranges": ranges}}


KINDS = {
    "category": ("category.begun", "category"),
    "brand": ("brand.begun", "brand"),
    "product": ("name.begun", "name.whole"),
}
"""What can be suggested: the field whose words begin so, and the one whose values these are."""


def begun(text: str, *, limit: int) -> Body:
    """What there is whose words begin as those of the text, by how often."""
    kinds = {
        kind: {
            "filter": _begins(field, text),
            "aggs": {"values": {"terms": {"field": values, "size": limit}}},
        }
        for kind, (field, values) in KINDS.items()
    }
    return {"size": 0, "query": {"term": {"listed": True}}, "aggs": kinds}


def _begins(field: str, text: str) -> Body:
    return {"match": {field: {"query": text, "operator": "and"}}}


def listed(*, after: str | None, limit: int) -> Body:
    """The skus of what is to be found, in their order."""
    body: Body = {"size": limit, "query": {"term": {"listed": True}}, "sort": [{"sku": "asc"}], "_source": False}
    return body if after is None else {**body, "search_after": [after]}


def unlisted(*, after: str | None, limit: int) -> Body:
    """What is kept and not to be found, in the order of its skus."""
    body: Body = {"size": limit, "query": {"term": {"listed": False}}, "sort": [{"sku": "asc"}]}
    return body if after is None else {**body, "search_after": [after]}


def near(latitude: float, longitude: float, *, limit: int, kilometres: float) -> Body:
    """Stores within so many kilometres, the nearest first."""
    here = {"lat": latitude, "lon": longitude}
    return {
        "size": limit,
        "query": {"bool": {"filter": [{"geo_distance": {"distance": f"{kilometres}km", "place": here}}]}},
        "sort": [{"_geo_distance": {"place": here, "order": "asc", "unit": "km"}}, {"id": "asc"}],
    }


def corrected(text: str, suggested: Sequence[Mapping[str, Any]]) -> str | None:
    """The text with each word that nothing has in place of the one that it is most like; None if nothing is alike."""
    units = text.encode("utf-16-le")  # it counts as Java does: two bytes each
    found, at = b"", 0
    for one in suggested:
        if options := one["options"]:
            found += units[at : 2 * one["offset"]] + options[0]["text"].encode("utf-16-le")
            at = 2 * (one["offset"] + one["length"])
    return (found + units[at:]).decode("utf-16-le") if at else None
