from typing import Any

import numpy as np
import numpy.typing as npt

def vtcr_of(ipa_bits: int, pa_bits: int) -> int | None: ...

class Tables:
    ipa_bits: int
    pa_bits: int
    root_level: int
    root_pages: int
    root: int
    def __init__(
        self,
        segments: list[tuple[int, npt.NDArray[np.uint8]]],
        vttbr: int,
        vtcr: int,
        pa_bits: int,
    ) -> None: ...
    def scan(
        self, most_extents: int
    ) -> tuple[
        npt.NDArray[Any],
        npt.NDArray[Any],
        npt.NDArray[Any],
        list[int],
        int,
        int,
        tuple[int, int, int],
        npt.NDArray[np.uint64],
    ]: ...
    def walk(self, gfn: int) -> npt.NDArray[Any]: ...
    def translate(self, ipas: npt.NDArray[np.uint64], rights: int) -> npt.NDArray[Any]: ...
