from collections.abc import Callable
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])

def guarded(method: _Method) -> _Method: ...
def lending(storage: Any) -> Callable[..., memoryview]: ...
