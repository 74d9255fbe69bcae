"""Random P2Ms under QEMU's MMU, anywhere in 48 bits of address, and what PAR_EL1 has to be, memory
attributes included. The rest stands in `mmu_guest`."""

from __future__ import annotations

from dataclasses import dataclass

import mmu_guest
import numpy as np
from conformance.qemu_mmu import FRAMES, MAX_TABLES, STUB_MFN, TABLES, Machine
from mmu_guest import PAR_ATTR, PAR_SH, Answers, RandomGuest, Words, u64

import p2mfast as pf

# ---- What PAR_EL1 has to be ----


def _normal(memattr: int) -> int:
    """The MAIR encoding of Normal memory. A half of MemAttr is 1 Non-cacheable, 2 Write-Through,
    3 Write-Back; the allocation hints are stage 1's, which are to allocate on both."""
    half = {1: 0x4, 2: 0xB, 3: 0xF}
    return half[memattr >> 2] << 4 | half[memattr & 3]


# Stage 1, with HCR_EL2.DC, is Normal Inner and Outer Write-Back, Non-shareable. The two stages
# combine to the weaker of both (Arm ARM DDI 0487, D8, "Combining stage 1 and stage 2 attributes"):
# Device over Normal, Non-cacheable over Write-Through over Write-Back, each of inner and outer by
# itself; Outer Shareable over Inner Shareable over Non-shareable. So it is stage 2's that show, but
# that Device memory, and Normal memory that is Non-cacheable both inner and outer, are always Outer
# Shareable.
ATTR = {m: m << 2 if m < 4 else _normal(m) for m in range(16) if m < 4 or m & 3}
ALWAYS_OUTER = {0, 1, 2, 3, 5}
OUTER, RESERVED_SH = 2, 1

_ATTR_OF = np.array([ATTR.get(m, 0) for m in range(16)], np.uint64)
_DEFINED = np.array([m in ATTR for m in range(16)])
_OUTER = np.array([m in ALWAYS_OUTER for m in range(16)])


def expected_pars(answers: Answers) -> tuple[Words, Words]:
    """PAR_EL1 for the answers of `translate_many`, and which bits of it are told: not those of
    reserved attributes, and none that the architecture leaves unknown."""
    expected, told = mmu_guest.expected_pars(answers)
    memattr = answers["attrs"] >> u64(2) & u64(0xF)
    sh = answers["attrs"] >> u64(8) & u64(3)
    sh = np.where(_OUTER[memattr], u64(OUTER), sh)
    works = answers["fault"] == 0
    expected |= np.where(works, _ATTR_OF[memattr] << u64(56) | sh << u64(7), u64(0))
    told[works & _DEFINED[memattr]] |= u64(PAR_ATTR)
    told[works & _DEFINED[memattr] & (sh != RESERVED_SH)] |= u64(PAR_SH)
    return expected, told


# ---- A random P2M ----


@dataclass
class Guest(RandomGuest[Machine]):
    """A P2M, and the machine that walks its tables.

    `frames`: the machine frames that it is given, first and last (exclusive). QEMU 7.2 faults all
    addresses if they have more bits than VTCR_EL2.PS, where the architecture leaves that to it only
    if they have more than PARange: such a space is walked with a smaller T0SZ (`input_bits`), from
    the same root.
    """

    frames: tuple[int, int] = FRAMES
    stub_mfn = STUB_MFN

    @property
    def reach(self) -> int:
        return self.machine.pa_range

    def frame(self, nr: int, order: int) -> int:
        first, end = self.frames[0] >> order, self.frames[1] - nr >> order
        return int(self.rng.integers(first, end + 1)) << order

    def has_ram(self, mfn: int) -> bool:
        return self.machine.has_ram(mfn)

    def expected_pars(self, answers: Answers) -> tuple[Words, Words]:
        return expected_pars(answers)


def new_p2m(ipa_bits: int, pa_bits: int = 48, vmid: int = 1) -> pf.P2M:
    """A P2M whose tables lie in the machine's RAM."""
    return pf.P2M(
        ipa_bits, pa_bits=pa_bits, vmid=vmid, max_tables=MAX_TABLES, table_base_mfn=TABLES >> 12
    )


def empty_guest(machine: Machine, ipa_bits: int, seed: int, pa_bits: int = 48) -> Guest:
    """A P2M in which only the stub is mapped, at GFN 1."""
    rng = np.random.default_rng([ipa_bits, pa_bits, seed])
    input_bits = min(ipa_bits, pa_bits)
    guest = Guest(machine, new_p2m(ipa_bits, pa_bits), rng, input_bits, [0], stub_gfn=1)
    guest.keep_stub()
    return guest


def make_guest(
    machine: Machine,
    ipa_bits: int,
    seed: int,
    *,
    pa_bits: int = 48,
    frames: tuple[int, int] = (0, 1 << 36),
    **how: float,
) -> Guest:
    """A P2M of about 70 random changes (`how`: see `plan`), under the machine."""
    rng = np.random.default_rng([ipa_bits, pa_bits, seed])
    p2m = new_p2m(ipa_bits, pa_bits, vmid=int(rng.integers(1, 1 << 8 * (1 + seed % 2))))
    input_bits = min(ipa_bits, pa_bits)
    guest = Guest(machine, p2m, rng, input_bits, [], 0, frames=frames)
    guest.fill(seed, [(18, 4), (9, 20), (0, 40), (None, 6)], **how)
    return guest
