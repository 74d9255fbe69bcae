"""A guest of 64 bits on an emulated core, whose stage 2 is a p2mfast domain's tables.

The guest writes to some of its pages and cleans its caches by Set/Way. Each `DC CISW` traps to the
domain's vCPU, and the domain cleans what the guest has touched since the last time, not all its
RAM. Then the same again, with fewer pages.

    pip install "p2mfast[unicorn]" && python guest.py
"""

import numpy as np
import unicorn
from unicorn import arm64_const as arm64

import p2mfast as pf
from p2mfast.adapters.unicorn import MachineMemory, attach

RAM = 0x4000_0000  # where the guest's RAM lies in its own address space
DATA = RAM + 0x20_0000

# x0: the first page, x1: how many. A word in each is written, then every cache is cleaned.
PROGRAM = (
    0xD2A80004,  # mov x4, #0x40000000         the stage-1 table, in the page behind this one:
    0xB2740084,  # orr x4, x4, #0x1000
    0xD280E025,  # mov x5, #0x701
    0xB26200A5,  # orr x5, x5, #0x40000000
    0xF9000485,  # str x5, [x4, #8]            maps its GiB to itself, write-back
    0xD2801FE3,  # mov x3, #0xff
    0xD518A203,  # msr mair_el1, x3
    0xD286A323,  # mov x3, #0x3519
    0xF2A01003,  # movk x3, #0x80, lsl #16
    0xD5182043,  # msr tcr_el1, x3
    0xD5182004,  # msr ttbr0_el1, x4
    0xD5033FDF,  # isb
    0xD5381003,  # mrs x3, sctlr_el1
    0xD28200A2,  # mov x2, #0x1005
    0xAA020063,  # orr x3, x3, x2
    0xD5181003,  # msr sctlr_el1, x3           MMU and caches on
    0xD5033FDF,  # isb
    0xAA0003F3,  # again: mov x19, x0
    0xAA0103E2,  # mov x2, x1
    0xF9000273,  # store: str x19, [x19]
    0x91400673,  # add x19, x19, #0x1, lsl #12
    0xF1000442,  # subs x2, x2, #0x1
    0x54FFFFA1,  # b.ne store
    0xD5390003,  # mrs x3, ccsidr_el1
    0x92400864,  # and x4, x3, #0x7
    0x91001084,  # add x4, x4, #0x4            log2 of a line's bytes
    0xD3433065,  # ubfx x5, x3, #3, #10        the last way
    0x5AC010A6,  # clz w6, w5
    0xD34D6C67,  # ubfx x7, x3, #13, #15       the last set
    0xAA0503E8,  # set: mov x8, x5
    0x9AC62109,  # way: lsl x9, x8, x6
    0x9AC420EA,  # lsl x10, x7, x4
    0xAA0A0129,  # orr x9, x9, x10
    0xD5087E49,  # dc cisw, x9                 traps: HCR_EL2.TSW
    0xF1000508,  # subs x8, x8, #0x1
    0x54FFFF6A,  # b.ge way
    0xF10004E7,  # subs x7, x7, #0x1
    0x54FFFF0A,  # b.ge set
    0xD5033F9F,  # dsb sy
    0xD518D03F,  # msr contextidr_el1, xzr     traps after that: HCR_EL2.TVM; the batch is over
    0xD4000022,  # hvc #0x1                    back to us
    0x17FFFFE8,  # b again
)


def main() -> None:
    """Run it."""
    # A machine, and a guest whose accesses are tracked from its first instruction on.
    host = pf.Host("1GiB", cache=pf.CacheGeometry(line=64, ways=2, sets=64))
    policy = pf.Policy.parse("arm=creation-finished")
    guest = host.create_domain("256MiB", bits=64, policy=policy, page_order=0)

    # Our emulator: a core, and the machine's RAM at its machine addresses.
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, arm64.UC_CPU_ARM64_MAX)
    uc.ctl_set_page_size(4096)
    memory = MachineMemory(2 << 30, host.memory)
    memory.map(uc)

    # From here on it walks the domain's tables; aborts, Set/Way and VM registers go to its vCPU.
    core = attach(uc, guest, vcpu=0, cache=host.cache)

    # Load the program where the guest's first page lies in the machine, and start the guest.
    code = np.array(PROGRAM, "<u4").view(np.uint8)
    memory.page(guest.p2m.get_entry(RAM >> 12).mfn)[: code.size] = code
    guest.unpause()
    core.reset()

    begin: int | None = RAM
    for first, pages in ((DATA, 100), (DATA + 0x5_0000, 7)):
        core.set_register(0, first)
        core.set_register(1, pages)
        call = core.run(begin)
        begin = None  # where it called
        assert call is not None
        assert (call.kind, call.number) == ("hvc", 1)

        # The flush that the batch of Set/Way asked for: the program, the stage-1 table that the
        # core walks, and what was written to.
        flush = guest.flushes[-1]
        print(f"{pages} pages written to, {flush.pages} of {256 << 8:,} cleaned:")
        for gfn, mfn, nr in flush.runs.tolist():
            print(f"  {nr:3} from guest frame {gfn:#x}, machine frame {mfn:#x}")
        assert flush.cause == "set-way"
        written = [(first >> 12) + i for i in range(pages)]
        cleaned = [gfn + i for gfn, _, nr in flush.runs.tolist() for i in range(nr)]
        assert cleaned == [RAM >> 12, (RAM >> 12) + 1, *written]

        # And what it wrote is in the machine's memory.
        for gfn in written:
            page = memory.page(guest.p2m.get_entry(gfn).mfn)
            assert int(page[:8].view("<u8")[0]) == gfn << 12

    stats = guest.stats
    print(f"{stats.set_way_traps} Set/Way trapped, {stats.flushes} flushes, {stats.traps} aborts")
    assert stats.set_way_traps == 2 * host.cache.set_way_operations
    assert stats.flushes == 2


if __name__ == "__main__":
    main()
