from typing import TypeAlias

from typing_extensions import Buffer, Self, disjoint_base

from ..deflate._inflate import Inflater

_Event: TypeAlias = tuple[str | bytes | int, ...]

@disjoint_base
class ReadBuffer:
    def __new__(cls, is_small: bool = False) -> Self: ...
    @property
    def large(self) -> memoryview: ...
    @property
    def small(self) -> memoryview: ...

@disjoint_base
class Parser:
    def __new__(cls, max_message_bytes: int, max_fragments: int, inflater: Inflater | None = None) -> Self: ...
    def parse(self, data: Buffer, is_held_back: bool = False) -> list[_Event]: ...
