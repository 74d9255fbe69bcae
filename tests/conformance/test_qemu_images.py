"""Images between p2mfast and QEMU: QEMU puts the tables of a saved image into its memory, by the
arguments of `qemu_loader`, and its MMU walks them there; and what QEMU itself writes of its memory,
by `pmemsave` and `dump-guest-memory`, reads as the same tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conformance.guests import expected_pars
from conformance.qemu_mmu import TABLES, Machine
from xen_dump.machine import Qmp

import p2mfast as pf
from p2mfast.image import Image

pytestmark = pytest.mark.conformance

REAL = Path(__file__).parents[1] / "data" / "real_p2m"


def random_p2m(ipa_bits: int) -> pf.P2M:
    """Some islands, a part of them armed and touched."""
    rng = np.random.default_rng(ipa_bits)
    p2m = pf.P2M(ipa_bits, pa_bits=48, table_base_mfn=TABLES >> 12)
    for _ in range(40):
        order = int(rng.choice([0, 9, 18]))
        gfn = int(rng.integers(0, 1 << ipa_bits - 12)) >> order << order
        kind = pf.P2MType(int(rng.integers(1, 12)))
        p2m.set_entry(gfn, 1 << order, int(rng.integers(0, 1 << 30)) >> order << order, kind)
    p2m.invalidate_root()
    runs = p2m.mapped_runs()
    p2m.resolve_translation_faults(runs["gfn"][::2].copy())
    return p2m


def addresses(image: Image) -> np.ndarray:
    rng = np.random.default_rng(3)
    runs = image.mapped_runs()
    chosen = rng.integers(0, len(runs), 4000)
    inside = runs["gfn"][chosen] + (rng.random(4000) * runs["nr"][chosen]).astype(np.uint64)
    return np.concatenate(
        [inside << np.uint64(12), rng.integers(0, 1 << image.ipa_bits, 1000, "u8")]
    )


def compare(machine: Machine, image: Image) -> None:
    machine.configure(image.vtcr, image.vttbr)
    ipas = addresses(image)
    answers = image.translate_many(ipas)
    expected, told = expected_pars(answers)
    pars = machine.address_translate(ipas, "r")
    assert not ((pars ^ expected) & told).any()
    assert (answers["fault"] == 0).sum() > 100
    assert (answers["fault"] != 0).sum() > 100


@pytest.mark.parametrize("suffix", [".json", ".elf"])
@pytest.mark.parametrize("ipa_bits", [32, 40, 48])
def test_tables_of_a_p2m_loaded_by_qemu(ipa_bits: int, suffix: str, tmp_path: Path) -> None:
    p2m = random_p2m(ipa_bits)
    path = tmp_path / f"a,b{suffix}"
    pf.image.save(p2m, path)
    with Machine("max", arguments=pf.image.qemu_loader(path)) as machine:
        compare(machine, pf.image.load(path))


# Those of the 32-bit Xen lie where QEMU puts its device tree.
@pytest.mark.parametrize("name", ["xen_dom0_p2m", "xen_arm64_n1_dom0_p2m"])
def test_tables_of_a_real_xen_loaded_by_qemu(name: str, tmp_path: Path) -> None:
    image = pf.image.load(REAL / f"{name}.npz")
    pf.image.save(image, tmp_path / "tables.elf")
    arguments = pf.image.qemu_loader(tmp_path / "tables.elf")
    with Machine("max", arguments=arguments) as machine:
        compare(machine, image)


@pytest.mark.parametrize("way", ["pmemsave", "dump-guest-memory"])
def test_memory_that_qemu_has_written(way: str, tmp_path: Path) -> None:
    image = pf.image.load(REAL / "xen_dom0_p2m.npz")
    pf.image.save(image, tmp_path / "tables.elf")
    begin = image.memory.segments[0][0]
    last, data = image.memory.segments[-1]
    length = last + len(data) - begin
    socket = tmp_path / "qmp"
    arguments = [*pf.image.qemu_loader(tmp_path / "tables.elf")]
    arguments += ["-qmp", f"unix:{socket},server=on,wait=off"]
    with Machine("max", arguments=arguments):
        qmp = Qmp(socket)
        if way == "pmemsave":
            base = begin
            saved = {"val": begin, "size": length, "filename": str(tmp_path / "memory")}
            qmp.execute("pmemsave", saved)
        else:
            base = None
            target = {"paging": False, "protocol": f"file:{tmp_path / 'memory'}"}
            qmp.execute("dump-guest-memory", {**target, "begin": begin, "length": length})
        qmp.close()
    again = pf.image.load(tmp_path / "memory", vttbr=image.vttbr, vtcr=image.vtcr, base=base)
    assert again.extents().tolist() == image.extents().tolist()
    assert again.findings() == []
