"""Stage-2 tables of a running Xen (`tests/data/real_p2m`), put back at their physical addresses:
QEMU's MMU, `p2mfast.image` and a plain walk of the dump agree on a hundred thousand addresses of
each."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conformance.guests import expected_pars
from conformance.qemu_mmu import Machine
from mmu_guest import Answers, Words, u64

import p2mfast as pf
from p2mfast.image import Image, Memory
from p2mfast.types import TRANSLATION_DTYPE

pytestmark = pytest.mark.conformance

DATA = Path(__file__).parents[1] / "data" / "real_p2m"
DUMPS = ["xen_dom0_p2m", "xen_armhf_dom0_p2m", "xen_arm64_n1_dom0_p2m"]
ADDRESS = 0x0000_FFFF_FFFF_F000
VTCR_PS = 7 << 16
VTCR_PS_40_BITS = 2 << 16
TRANSLATION, PERMISSION, ACCESS_FLAG = (
    int(kind)
    for kind in (pf.FaultKind.TRANSLATION, pf.FaultKind.PERMISSION, pf.FaultKind.ACCESS_FLAG)
)


@dataclass
class Dump:
    """Table pages by their physical address, and the registers."""

    pages: dict[int, list[int]]
    vtcr: int
    vttbr: int
    ipa_bits: int
    start_level: int

    @classmethod
    def load(cls, name: str) -> Dump:
        with np.load(DATA / f"{name}.npz") as file:
            meta = json.loads(str(file["meta"]))
            pages = dict(zip(file["page_pa"].tolist(), file["page"].tolist(), strict=True))
        # VTCR of AArch32 has no PS. Its T0SZ, a signed number of five bits, is -8 here, which
        # reads as the 24 that it has to be for 40 bits in AArch64.
        vtcr = meta["vtcr"]
        if not vtcr & VTCR_PS:
            vtcr |= VTCR_PS_40_BITS
        return cls(pages, vtcr, meta["vttbr"], meta["ipa_bits"], meta["start_level"])

    def resolved(self) -> Dump:
        """All as if the guest had been everywhere: bit 0 set of all that is mapped."""
        pages = {pa: [word | (word != 0) for word in page] for pa, page in self.pages.items()}
        return replace(self, pages=pages)

    def restricted(self, rng: np.random.Generator) -> Dump:
        """One of four leaves made not readable, not writable, or without its access flag. (In a
        table descriptor these bits say nothing.)"""
        words = np.array(list(self.pages.values()), np.uint64)
        bits = rng.choice(np.array([1 << 6, 1 << 7, 1 << 10], np.uint64), words.shape)
        words ^= np.where((words != 0) & (rng.random(words.shape) < 0.25), bits, u64(0))
        return replace(self, pages=dict(zip(self.pages, words.tolist(), strict=True)))

    def image(self) -> Image:
        """The same for p2mfast."""
        pieces = [(pa, np.array(page, np.uint64).view(np.uint8)) for pa, page in self.pages.items()]
        return Image(Memory(pieces), vttbr=self.vttbr, vtcr=self.vtcr)

    def put(self, machine: Machine) -> None:
        for pa, page in self.pages.items():
            machine.words(pa, 512)[:] = page
        machine.configure(self.vtcr, self.vttbr)

    def walk(self, ipa: int, write: bool) -> tuple[int, int, int, int]:
        """(pa, attributes, level, fault) of an address, by the architecture's rules (Arm ARM DDI
        0487, D8), as a row of TRANSLATION_DTYPE."""
        if ipa >> self.ipa_bits:
            return 0, 0, 0, TRANSLATION
        table = self.vttbr & ADDRESS
        for level in range(self.start_level, 4):
            shift = 39 - 9 * level
            index = ipa >> shift
            if level > self.start_level:
                index &= 0x1FF
            # Concatenated root tables are one after another.
            word = self.pages[table + (index >> 9 << 12)][index & 0x1FF]
            if not word & 1 or (level == 3 and not word & 2):
                return 0, 0, level, TRANSLATION
            if level == 3 or not word & 2:
                break
            table = word & ADDRESS
        if not word & 1 << 10:
            return 0, 0, level, ACCESS_FLAG
        if not word & (1 << 7 if write else 1 << 6):
            return 0, 0, level, PERMISSION
        within = (1 << shift) - 1
        return word & ADDRESS & ~within | ipa & within, word & ~ADDRESS, level, 0

    def answers(self, ipas: Words, write: bool) -> Answers:
        return np.array([self.walk(ipa, write) for ipa in ipas.tolist()], TRANSLATION_DTYPE)

    def mapped(self) -> list[tuple[int, int, int]]:
        """(ipa, size, MemAttr) of every leaf, valid or not."""
        found = []

        def visit(table: int, level: int, ipa: int) -> None:
            for index, word in enumerate(self.pages[table]):
                at = ipa + (index << 39 - 9 * level)
                if word and level < 3 and word & 2:
                    visit(word & ADDRESS, level + 1, at)
                elif word:
                    found.append((at, 1 << 39 - 9 * level, word >> 2 & 0xF))

        root = self.vttbr & ADDRESS
        for i in range(1 << self.ipa_bits - 48 + 9 * self.start_level):
            visit(root + (i << 12), self.start_level, i << 48 - 9 * self.start_level)
        return found


def addresses(dump: Dump, rng: np.random.Generator) -> Words:
    """A hundred thousand: 20,000 in leaves of each size and memory type, others below 4 GiB,
    anywhere, and beyond the space."""
    leaves = np.array(dump.mapped(), np.uint64)
    parts = []
    for size, memattr in np.unique(leaves[:, 1:], axis=0):
        alike = (leaves[:, 1] == size) & (leaves[:, 2] == memattr)
        some = rng.choice(leaves[alike, 0], 20_000)
        parts.append(some + rng.integers(0, size, len(some), np.uint64))
    rest = 100_000 - 20_000 * len(parts)
    space = 1 << dump.ipa_bits
    for low, high, n in (
        (0, 1 << 32, rest // 2),
        (0, space, rest // 4),
        (space, 4 * space, rest // 4),
    ):
        parts.append(rng.integers(low, high, n, np.uint64))
    return np.concatenate(parts)


@pytest.mark.parametrize("state", ["as dumped", "resolved", "restricted"])
@pytest.mark.parametrize("name", DUMPS)
def test_a_real_dump(machine: Machine, name: str, state: str) -> None:
    """A hundred thousand addresses, to read and to write, in the state in which Xen left the
    tables; with everything resolved; and with rights taken away from that."""
    rng = np.random.default_rng(7)
    dump = Dump.load(name)
    if state != "as dumped":
        dump = dump.resolved()
    if state == "restricted":
        dump = dump.restricted(rng)
    dump.put(machine)
    ipas = addresses(dump, rng)
    assert len(ipas) == 100_000
    image = dump.image()
    for kind in "rw":
        answers = dump.answers(ipas, kind == "w")
        assert image.translate_many(ipas, kind).tolist() == answers.tolist()
        pars = machine.address_translate(ipas, kind)
        expected, told = expected_pars(answers)
        bad = ((pars ^ expected) & told).nonzero()[0]
        assert not bad.size, f"{int(ipas[bad[0]]):#x}: {int(pars[bad[0]]):#x}, {answers[bad[0]]}"
        works = answers[answers["fault"] == 0]
        assert len(works) > 1000
        assert len(works) < len(ipas) - 1000
        # RAM and device memory
        assert set((works["attrs"] >> u64(2) & u64(0xF)).tolist()) >= {0x1, 0xF}


def test_one_wrong_bit_shows(machine: Machine) -> None:
    """The comparison can fail: one bit of the root in the machine's copy changed."""
    dump = Dump.load("xen_dom0_p2m").resolved()
    dump.put(machine)
    ipas = addresses(dump, np.random.default_rng(7))
    root = machine.words(dump.vttbr & ADDRESS, 512)
    root[int(ipas[0] >> u64(30))] ^= u64(1)
    expected, told = expected_pars(dump.answers(ipas, write=False))
    assert ((machine.address_translate(ipas, "r") ^ expected) & told).any()
