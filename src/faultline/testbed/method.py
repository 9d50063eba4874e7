"""A method of an object in the learner's process, as a check holds it before it calls it."""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from faultline.testbed.errors import Broken


class Method:
    """Calls it over there. A check that takes it for a value had been promised one: then the promise is broken."""

    def __init__(self, kind: str, name: str, call: Callable[..., Awaitable[Any]]) -> None:
        self._name = f"{kind}.{name}"
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Perform it; raises as `LearnerProcess.request` does."""
        return self._call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self._name} is no value that can be read>"

    def _misused(self, *_: Any) -> NoReturn:
        raise Broken(f"{self._name} is no value that can be read")

    __add__ = __radd__ = __sub__ = __rsub__ = __lt__ = __le__ = __gt__ = __ge__ = _misused
    __bool__ = __float__ = __int__ = __iter__ = __len__ = __getitem__ = _misused
