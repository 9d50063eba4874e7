"""The JSON Schema of every event, as files that a program in another language can read.

python -m faultline.shop.contracts.schema         writes them anew
"""

from pathlib import Path

import msgspec

from faultline.shop.contracts.events import EVENTS

FOLDER = Path(__file__).with_name("schemas")


def schemas() -> dict[str, bytes]:
    """What the files must hold, by their names."""
    return {f"{name}.json": _written(name, event) for name, event in EVENTS.items()}


def _written(name: str, event: type[msgspec.Struct]) -> bytes:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name, **msgspec.json.schema(event)}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


if __name__ == "__main__":
    for file, text in schemas().items():
        (FOLDER / file).write_bytes(text)
