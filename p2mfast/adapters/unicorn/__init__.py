"""Stage 2 for Unicorn (https://www.unicorn-engine.org): ``pip install "p2mfast[unicorn]"``.

There are two ways, by what the emulator models:

* :func:`attach`: the emulated Arm core walks the live descriptors of a ``Domain`` or a ``P2M``
  itself, below the guest's own stage 1. What would be taken to EL2 goes to the domain's ``VCpu``.
* :func:`attach_fill`: there is no stage 1, of any architecture. Unicorn asks for each page that is
  not in its TLB, and the engine answers in C.

Both need a ``unicorn.Uc`` that is the caller's, whose memory is mapped at machine addresses
(:class:`MachineMemory` is one that can be).
"""

from p2mfast.adapters.unicorn.core import Call, Core, GuestError, GuestException, attach
from p2mfast.adapters.unicorn.fill import TlbFill, attach_fill
from p2mfast.adapters.unicorn.memory import MachineMemory

__all__ = [
    "Call",
    "Core",
    "GuestError",
    "GuestException",
    "MachineMemory",
    "TlbFill",
    "attach",
    "attach_fill",
]
