from typing_extensions import disjoint_base

from ._delivery import Delivery

@disjoint_base
class Round(Delivery): ...
