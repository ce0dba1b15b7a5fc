from typing_extensions import disjoint_base

from ._roster import Roster

@disjoint_base
class Forms(Roster):
    @property
    def subscribers_by_form(self) -> tuple[int, int, int]: ...
    def _check_forms(self) -> None: ...
