from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, final

import numpy as np
import numpy.typing as npt

from p2mfast.types import Access, Flush, P2MType, Stats, Translation

_Integers = npt.NDArray[np.integer[Any]] | Sequence[int]
_Depth = Literal["path", "level"]

@final
class Entry:
    __match_args__: ClassVar[tuple[str, ...]]
    def __init__(
        self,
        mfn: int | None,
        type: P2MType | int,
        order: int,
        valid: bool,
        reachable: bool,
        access: Access | None,
    ) -> None: ...
    @property
    def mfn(self) -> int | None: ...
    @property
    def type(self) -> P2MType: ...
    @property
    def order(self) -> int: ...
    @property
    def valid(self) -> bool: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def access(self) -> Access | None: ...
    def __iter__(self) -> Iterator[int | bool | None]: ...

class P2M:
    ipa_bits: int
    pa_bits: int
    vmid: int
    max_tables: int | None
    def __init__(
        self,
        ipa_bits: int = 40,
        *,
        vmid: int = 1,
        pa_bits: int = 48,
        max_tables: int | None = None,
        table_base_mfn: int | None = None,
    ) -> None: ...
    @property
    def root_level(self) -> int: ...
    @property
    def root_pages(self) -> int: ...
    @property
    def vector_loops(self) -> str: ...
    @property
    def vtcr(self) -> int: ...
    @property
    def vttbr(self) -> int: ...
    @property
    def lowest_mapped_gfn(self) -> int | None: ...
    @property
    def max_mapped_gfn(self) -> int | None: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def table_base_mfn(self) -> int: ...
    @property
    def tables(self) -> npt.NDArray[np.uint64]: ...
    def get_entry(self, gfn: int) -> Entry: ...
    def get_entries(
        self, gfns: _Integers, out: npt.NDArray[np.void] | None = None
    ) -> npt.NDArray[np.void]: ...
    def translate(self, ipa: int, access: str = "r") -> Translation: ...
    def translate_many(
        self, ipas: _Integers, access: str = "r", out: npt.NDArray[np.void] | None = None
    ) -> npt.NDArray[np.void]: ...
    def set_entry(
        self,
        gfn: int,
        nr: int,
        mfn: int | None,
        type: P2MType = ...,
        access: Access = ...,
        armed: bool = False,
        max_order: int = 18,
    ) -> None: ...
    def set_entries(
        self,
        gfns: _Integers,
        mfns: _Integers,
        type: P2MType = ...,
        access: Access = ...,
        armed: bool = False,
    ) -> None: ...
    def remove_mapping(self, gfn: int, nr: int, mfn: int) -> None: ...
    def relinquish(self, budget: int | None = None) -> bool: ...
    def invalidate_root(self) -> None: ...
    def resolve_translation_fault(
        self, gfn: int, depth: _Depth = "path", order: int = 0
    ) -> bool: ...
    def resolve_translation_faults(
        self, gfns: _Integers, depth: _Depth = "path", order: int = 0
    ) -> npt.NDArray[np.bool_]: ...
    def access_many(
        self,
        ipas: _Integers,
        kinds: _Integers,
        depth: _Depth | None = "path",
        order: int = 0,
    ) -> npt.NDArray[np.void]: ...
    def harvest(self) -> Flush: ...
    def cache_flush_range(
        self,
        start: int,
        end: int,
        skip: Literal["path", "leaf", "none"] = "path",
        budget: int | None = None,
    ) -> Flush: ...
    def entries(self) -> npt.NDArray[np.void]: ...
    def mapped_runs(self) -> npt.NDArray[np.void]: ...
    def check(self) -> list[str]: ...
    def drain_events(self) -> npt.NDArray[np.void]: ...
