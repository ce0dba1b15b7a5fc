from typing_extensions import disjoint_base

from ._tally import Tally

@disjoint_base
class Delivery(Tally): ...
