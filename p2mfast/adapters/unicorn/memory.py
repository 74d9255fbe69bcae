"""Machine memory for emulated machines."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt
import unicorn
from unicorn.unicorn_py3.unicorn import Uc

from p2mfast.adapters.unicorn.engine import keep_alive
from p2mfast.units import PAGE_SIZE


class MachineMemory:
    """RAM that costs only what is touched of it, to be mapped into any number of Ucs.

    Parameters
    ----------
    base : int
        Machine address of its first byte, a multiple of 4 KiB. A ``Host``'s RAM starts at 2 GiB.
    size : int
        Bytes, a multiple of 4 KiB; ``host.memory`` is all of a ``Host``'s.

    Attributes
    ----------
    base : int
    pages : numpy array
        The bytes, a row a page.

    Raises ValueError naming the argument.
    """

    def __init__(self, base: int, size: int) -> None:
        for name, value, least in (("base", base, 0), ("size", size, PAGE_SIZE)):
            if value < least or value % PAGE_SIZE:
                raise ValueError(f"{name} must be a multiple of 4 KiB, not {value!r}")
        no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; older Pythons do not name it
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        memory = mmap.mmap(-1, size, flags=flags)
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # a page that is touched is not to bring 511 others
        self.base = base
        self.pages: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(-1, PAGE_SIZE)

    def map(self, uc: Uc) -> None:
        """Have it in this machine. Raises UcError where something is."""
        address = self.pages.ctypes.data
        uc.mem_map_ptr(self.base, self.pages.nbytes, unicorn.UC_PROT_ALL, address)
        keep_alive(uc, -address, self)

    def page(self, mfn: int) -> npt.NDArray[np.uint8]:
        """The bytes of a frame, to be read and written. Raises IndexError for one outside."""
        row = mfn - self.base // PAGE_SIZE
        if not 0 <= row < len(self.pages):
            raise IndexError(f"mfn {mfn:#x} is not in this memory")
        page: npt.NDArray[np.uint8] = self.pages[row]
        return page
