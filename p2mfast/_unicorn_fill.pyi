from collections.abc import Callable
from typing import Literal, final

from p2mfast._engine import P2M
from p2mfast.errors import Stage2Fault

IDENTITY: int

@final
class Fill:
    error: BaseException | None
    def __init__(
        self,
        p2m: P2M,
        *,
        resolve: bool,
        depth: Literal["path", "level"],
        order: int,
        on_fault: Callable[[Stage2Fault], bool] | None,
        read_register: int,
        pc_register: int,
    ) -> None: ...
    @property
    def p2m(self) -> P2M: ...
    @property
    def on_fault(self) -> Callable[[Stage2Fault], bool] | None: ...
    @property
    def callback(self) -> int: ...
    @property
    def data(self) -> int: ...
    @property
    def fills(self) -> int: ...
    @property
    def resolved(self) -> int: ...
    @property
    def faults(self) -> int: ...
    @property
    def fault(self) -> Stage2Fault | None: ...
    def begin(self, end: int) -> bool: ...
