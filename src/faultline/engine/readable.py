"""What the learner's code has said, made safe to show: a terminal obeys control characters."""

import re

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[@-Z\\\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def readable(text: str) -> str:
    """The text without colours and other commands to a terminal; any other control character is seen as \ufffd."""
    return _CONTROL.sub("\ufffd", _ESCAPE.sub("", text.replace("\r\n", "\n")))
