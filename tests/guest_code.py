"""Guest programs: what real systems do about their caches as they start, in machine code of ours.

Each instruction is one word with its assembly beside it; a program starts at its first word, the
boot CPU's at ENTRY, and takes its arguments in the first registers. The words are what GNU as makes
of the comments.
"""

from __future__ import annotations

RAM = 0x4000_0000
RAM_PAGES = 4096  # the page tables below map that much
ENTRY = RAM + 0x8000
VECTORS = RAM + 0x9000
SECOND_ENTRY = RAM + 0xA000
HOLE = 0x0A00_0000
DEVICE = 0x0900_0000

VALUE_AT = 0x40
"""Where in each page the programs store."""
MORE = 3
"""How many pages more they dirty the second time; the last one of the first time grows again."""


def stored(address: int, bits: int) -> int:
    """By what the programs make the word grow in the page that they address by this."""
    return 3 * address % (1 << bits)


CPU_ON = 0x8400_0003  # PSCI (Arm DEN 0022), 32-bit convention

# ---- AArch32, as Linux: caches cleaned, MMU on, and again before a secondary CPU comes up ----

LINUX32_VIRTUAL = 0xC000_0000
LINUX32_TABLE = RAM + 0x4000  # 16 KiB, first level
LINUX32_PAGES = RAM + 0x3000  # of the last MiB, second level

LINUX32 = (
    # r0: the first page to be dirtied (virtual), r1: bytes from one to the next, r2: how many
    0xE1A0A000,  # mov r10, r0
    0xE1A0B001,  # mov r11, r1
    0xE1A09002,  # mov r9, r2
    0xE3A0C101,  # mov r12, #0x40000000
    # The boot processor enters with caches off; what its loader left in them is cleaned first.
    0xEB000039,  # bl flush_caches
    # 1 MiB sections: RAM at its own address, where this code runs, and at 0xc0000000.
    0xE28C4901,  # add r4, r12, #0x4000
    0xE59F5160,  # ldr r5, section
    0xE2846A01,  # add r6, r4, #0x1000
    0xE2847A03,  # add r7, r4, #0x3000
    0xE3A0800F,  # mov r8, #15
    # sections:
    0xE4865004,  # str r5, [r6], #4
    0xE4875004,  # str r5, [r7], #4
    0xE2855601,  # add r5, r5, #0x100000
    0xE2588001,  # subs r8, r8, #1
    0x1AFFFFFA,  # bne sections
    # The last MiB by small pages, through a second-level table at 0x40003000.
    0xE28C5A03,  # add r5, r12, #0x3000
    0xE3850001,  # orr r0, r5, #1
    0xE5870000,  # str r0, [r7]
    0xE59F0134,  # ldr r0, small_page
    0xE080000C,  # add r0, r0, r12
    0xE280060F,  # add r0, r0, #0xf00000
    0xE3A08C01,  # mov r8, #256
    # pages:
    0xE4850004,  # str r0, [r5], #4
    0xE2800A01,  # add r0, r0, #0x1000
    0xE2588001,  # subs r8, r8, #1
    0x1AFFFFFB,  # bne pages
    # The MMU and the caches are turned on.
    0xE3A00000,  # mov r0, #0
    0xEE020F50,  # mcr p15, 0, r0, c2, c0, 2
    0xEE024F10,  # mcr p15, 0, r4, c2, c0, 0
    0xE3A00001,  # mov r0, #1
    0xEE030F10,  # mcr p15, 0, r0, c3, c0, 0
    0xEE080F17,  # mcr p15, 0, r0, c8, c7, 0
    0xF57FF04F,  # dsb sy
    0xEE110F10,  # mrc p15, 0, r0, c1, c0, 0
    0xE3800A01,  # orr r0, r0, #0x1000
    0xE3800005,  # orr r0, r0, #5
    0xEE010F10,  # mcr p15, 0, r0, c1, c0, 0
    0xF57FF06F,  # isb
    # To the address that the kernel is linked at.
    0xE24F0102,  # add r0, pc, #0x80000000
    0xE12FFF10,  # bx r0
    0xE320F000,  # nop
    0xE1A01009,  # mov r1, r9
    0xEB00000B,  # bl dirty
    # The secondary CPU starts with caches off: memory must hold all of it. PSCI CPU_ON.
    0xEB000012,  # bl flush_caches
    0xE59F00D0,  # ldr r0, cpu_on
    0xE1400070,  # hvc #0
    # It runs. A context switch, and three pages more, and the last one again.
    0xE3A00007,  # mov r0, #7
    0xEE0D0F30,  # mcr p15, 0, r0, c13, c0, 1
    0xF57FF06F,  # isb
    0xE04AA00B,  # sub r10, r10, r11
    0xE3A01004,  # mov r1, #4
    0xEB000002,  # bl dirty
    0xEB000009,  # bl flush_caches
    0xE1A0000A,  # mov r0, r10
    0xE1400071,  # hvc #1
    # r10 on: a word in each of r1 pages grows by the page's address, times three.
    # dirty:
    0xE59A0040,  # ldr r0, [r10, #0x40]
    0xE080008A,  # add r0, r0, r10, lsl #1
    0xE080000A,  # add r0, r0, r10
    0xE58A0040,  # str r0, [r10, #0x40]
    0xE08AA00B,  # add r10, r10, r11
    0xE2511001,  # subs r1, r1, #1
    0x1AFFFFF8,  # bne dirty
    0xE12FFF1E,  # bx lr
    # Clean and invalidate every data cache by Set/Way, from the innermost level to coherence.
    # flush_caches:
    0xEE300F30,  # mrc p15, 1, r0, c0, c0, 1
    0xE7E23C50,  # ubfx r3, r0, #24, #3
    0xE3A02000,  # mov r2, #0
    # level:
    0xE1520083,  # cmp r2, r3, lsl #1
    0xAA000017,  # bge flushed
    0xE08250A2,  # add r5, r2, r2, lsr #1
    0xE1A01530,  # lsr r1, r0, r5
    0xE2011007,  # and r1, r1, #7
    0xE3510002,  # cmp r1, #2
    0xBA000010,  # blt next_level
    0xEE402F10,  # mcr p15, 2, r2, c0, c0, 0
    0xF57FF06F,  # isb
    0xEE301F10,  # mrc p15, 1, r1, c0, c0, 0
    0xE2015007,  # and r5, r1, #7
    0xE2855004,  # add r5, r5, #4
    0xE7E961D1,  # ubfx r6, r1, #3, #10
    0xE16F7F16,  # clz r7, r6
    0xE7EE86D1,  # ubfx r8, r1, #13, #15
    # set:
    0xE7E91056,  # ubfx r1, r6, #0, #10
    # way:
    0xE1824518,  # orr r4, r2, r8, lsl r5
    0xE1A0C711,  # lsl r12, r1, r7
    0xE184400C,  # orr r4, r4, r12
    0xEE074F5E,  # mcr p15, 0, r4, c7, c14, 2
    0xE2511001,  # subs r1, r1, #1
    0xAAFFFFF9,  # bge way
    0xE2588001,  # subs r8, r8, #1
    0xAAFFFFF6,  # bge set
    # next_level:
    0xE2822002,  # add r2, r2, #2
    0xEAFFFFE5,  # b level
    # flushed:
    0xE3A0C101,  # mov r12, #0x40000000
    0xF57FF04F,  # dsb sy
    0xF57FF06F,  # isb
    0xE12FFF1E,  # bx lr
    0x40001C0E,  # section: .word 0x40001c0e
    0x0000047E,  # small_page: .word 0x0000047e
    0x84000003,  # cpu_on: .word 0x84000003
)

SECOND32 = (
    # Caches off. r0: a page (physical), r1: bytes from one to the next, r2: how many; r0: the sum.
    0xE3A03000,  # mov r3, #0
    # sum:
    0xE5904040,  # ldr r4, [r0, #0x40]
    0xE0833004,  # add r3, r3, r4
    0xE0800001,  # add r0, r0, r1
    0xE2522001,  # subs r2, r2, #1
    0x1AFFFFFA,  # bne sum
    0xE1A00003,  # mov r0, r3
    0xE1400072,  # hvc #2
)

# ---- AArch64, as UEFI and U-Boot: MMU on, and caches off and cleaned before what comes next ----

UEFI64_VIRTUAL = 0x8000_0000
UEFI64_TABLES = RAM + 0x10000  # levels 1, 2 and 3, a page each

UEFI64 = (
    # x0: the first page to be dirtied (virtual), x1: bytes from one to the next, x2: how many,
    # x3: the same page, by the address it has with the caches off
    0xAA0003F4,  # mov x20, x0
    0xAA0103F5,  # mov x21, x1
    0xAA0203F6,  # mov x22, x2
    0xAA0303F7,  # mov x23, x3
    # A level-1 table at 0x40010000: the GiB at its own address and at 0x80000000, through the same
    # level-2 table of 2 MiB blocks, whose last one is by pages through a level-3 table.
    0xD2A80024,  # mov x4, #0x40010000
    0x91400485,  # add x5, x4, #0x1000
    0x914004A6,  # add x6, x5, #0x1000
    0xB24004A0,  # orr x0, x5, #3
    0xF9000480,  # str x0, [x4, #8]
    0xF9000880,  # str x0, [x4, #16]
    0xD280E020,  # mov x0, #0x701
    0xF2A80000,  # movk x0, #0x4000, lsl #16
    0xD28000E1,  # mov x1, #7
    # blocks:
    0xF80084A0,  # str x0, [x5], #8
    0x91480000,  # add x0, x0, #0x200000
    0xF1000421,  # subs x1, x1, #1
    0x54FFFFA1,  # b.ne blocks
    0xB24004C1,  # orr x1, x6, #3
    0xF90000A1,  # str x1, [x5]
    0x91000800,  # add x0, x0, #2
    0xD2804001,  # mov x1, #512
    # pages:
    0xF80084C0,  # str x0, [x6], #8
    0x91400400,  # add x0, x0, #0x1000
    0xF1000421,  # subs x1, x1, #1
    0x54FFFFA1,  # b.ne pages
    0xD5033F9F,  # dsb sy
    0xD2801FE0,  # mov x0, #0xff
    0xD518A200,  # msr mair_el1, x0
    0xD286A320,  # mov x0, #0x3519
    0xF2A01000,  # movk x0, #0x80, lsl #16
    0xD5182040,  # msr tcr_el1, x0
    0xD5182004,  # msr ttbr0_el1, x4
    0xD5033FDF,  # isb
    0x94000020,  # bl caches_on
    0xAA1603E1,  # mov x1, x22
    0x94000016,  # bl dirty
    # Leaving the firmware: caches off, then cleaned.
    0xD5381000,  # mrs x0, sctlr_el1
    0xD28200A1,  # mov x1, #0x1005
    0x8A210000,  # bic x0, x0, x1
    0xD5181000,  # msr sctlr_el1, x0
    0xD5033FDF,  # isb
    0x9400001E,  # bl flush_caches
    # With the caches off memory holds what was stored.
    0xD2800000,  # mov x0, #0
    0xAA1603E1,  # mov x1, x22
    # sum:
    0xF94022E2,  # ldr x2, [x23, #64]
    0x8B020000,  # add x0, x0, x2
    0x8B1502F7,  # add x23, x23, x21
    0xF1000421,  # subs x1, x1, #1
    0x54FFFF81,  # b.ne sum
    0xD4000022,  # hvc #1
    # And on again, as the operating system has them: the last page once more, and three others.
    0x9400000F,  # bl caches_on
    0xCB150294,  # sub x20, x20, x21
    0xD2800081,  # mov x1, #4
    0x94000004,  # bl dirty
    0xAA1403E0,  # mov x0, x20
    0x94000010,  # bl flush_caches
    0xD4000043,  # smc #2
    # x20 on: a word in each of x1 pages grows by the page's address, times three.
    # dirty:
    0xF9402280,  # ldr x0, [x20, #64]
    0x8B140400,  # add x0, x0, x20, lsl #1
    0x8B140000,  # add x0, x0, x20
    0xF9002280,  # str x0, [x20, #64]
    0x8B150294,  # add x20, x20, x21
    0xF1000421,  # subs x1, x1, #1
    0x54FFFF41,  # b.ne dirty
    0xD65F03C0,  # ret
    # caches_on:
    0xD5381000,  # mrs x0, sctlr_el1
    0xD28200A1,  # mov x1, #0x1005
    0xAA010000,  # orr x0, x0, x1
    0xD5181000,  # msr sctlr_el1, x0
    0xD5033FDF,  # isb
    0xD65F03C0,  # ret
    # Clean and invalidate every data cache by Set/Way, from the innermost level to coherence.
    # flush_caches:
    0xD5390029,  # mrs x9, clidr_el1
    0xD358692A,  # ubfx x10, x9, #24, #3
    0xD280000B,  # mov x11, #0
    # level:
    0xEB0A017F,  # cmp x11, x10
    0x5400036A,  # b.ge flushed
    0x8B0B056C,  # add x12, x11, x11, lsl #1
    0x9ACC252D,  # lsr x13, x9, x12
    0x924009AD,  # and x13, x13, #7
    0xF10009BF,  # cmp x13, #2
    0x5400028B,  # b.lt next_level
    0xD37FF96C,  # lsl x12, x11, #1
    0xD51A000C,  # msr csselr_el1, x12
    0xD5033FDF,  # isb
    0xD539000D,  # mrs x13, ccsidr_el1
    0x924009AE,  # and x14, x13, #7
    0x910011CE,  # add x14, x14, #4
    0xD34331AF,  # ubfx x15, x13, #3, #10
    0x5AC011F0,  # clz w16, w15
    0xD34D6DB1,  # ubfx x17, x13, #13, #15
    # set:
    0xAA0F03F2,  # mov x18, x15
    # way:
    0x9AD02253,  # lsl x19, x18, x16
    0xAA0C0273,  # orr x19, x19, x12
    0x9ACE222D,  # lsl x13, x17, x14
    0xAA0D0273,  # orr x19, x19, x13
    0xD5087E53,  # dc cisw, x19
    0xF1000652,  # subs x18, x18, #1
    0x54FFFF4A,  # b.ge way
    0xF1000631,  # subs x17, x17, #1
    0x54FFFEEA,  # b.ge set
    # next_level:
    0x9100056B,  # add x11, x11, #1
    0x17FFFFE5,  # b level
    # flushed:
    0xD5033F9F,  # dsb sy
    0xD5033FDF,  # isb
    0xD65F03C0,  # ret
)

# ---- A device, a hole, a Set/Way, and the vectors by which the guest survives them ----

DEVICES32 = (
    # r0: a device, r1: a hole; the vectors are at 0x40009000.
    0xE3A02A09,  # mov r2, #0x9000
    0xE3822101,  # orr r2, r2, #0x40000000
    0xEE0C2F10,  # mcr p15, 0, r2, c12, c0, 0
    0xF57FF06F,  # isb
    0xE3A0A000,  # mov r10, #0
    0xE3A02041,  # mov r2, #0x41
    0xE5C02004,  # strb r2, [r0, #4]
    0xE3E02000,  # mvn r2, #0
    0xE1D020B6,  # ldrh r2, [r0, #6]
    0xE5913018,  # ldr r3, [r1, #24]
    0xE3A04000,  # mov r4, #0
    0xEE074F56,  # mcr p15, 0, r4, c7, c6, 2
    0xE1A0000A,  # mov r0, r10
    0xE1A0100B,  # mov r1, r11
    0xE1A0300C,  # mov r3, r12
    0xE1400073,  # hvc #3
)

VECTORS32 = (
    # Undefined instruction, at 4: behind it. Data abort, at 16: back to it, so 4 bytes further.
    0xE320F000,  # nop
    0xEA000005,  # b undefined
    0xE320F000,  # nop
    0xE320F000,  # nop
    0xE28AAC01,  # add r10, r10, #0x100
    0xEE15BF10,  # mrc p15, 0, r11, c5, c0, 0
    0xEE16CF10,  # mrc p15, 0, r12, c6, c0, 0
    0xE25EF004,  # subs pc, lr, #4
    # undefined:
    0xE28AA001,  # add r10, r10, #1
    0xE1B0F00E,  # movs pc, lr
)

DEVICES64 = (
    # x0: a device, x1: a hole; the vectors are at 0x40009000.
    0xD2920002,  # mov x2, #0x9000
    0xF2A80002,  # movk x2, #0x4000, lsl #16
    0xD518C002,  # msr vbar_el1, x2
    0xD5033FDF,  # isb
    0xD2800014,  # mov x20, #0
    0x52800822,  # mov w2, #0x41
    0x39001002,  # strb w2, [x0, #4]
    0x92800002,  # mov x2, #-1
    0x79400C02,  # ldrh w2, [x0, #6]
    0xF9400C23,  # ldr x3, [x1, #24]
    0xD508765F,  # dc isw, xzr
    0xAA1403E0,  # mov x0, x20
    0xAA1503E1,  # mov x1, x21
    0xAA1603E3,  # mov x3, x22
    0xD4000062,  # hvc #3
)

VECTORS64 = (
    # From EL1 itself: count it, keep the syndrome and the address, go on behind the instruction.
    0x91000694,  # add x20, x20, #1
    0xD5385215,  # mrs x21, esr_el1
    0xD5386016,  # mrs x22, far_el1
    0xD5384037,  # mrs x23, elr_el1
    0x910012F7,  # add x23, x23, #4
    0xD5184037,  # msr elr_el1, x23
    0xD69F03E0,  # eret
)

# ---- Registers that trap after a Set/Way ----

REGISTERS32 = (
    # After a Set/Way writes of VM registers trap: TTBR0, of 64 bits, is r1:r0, CONTEXTIDR r1.
    0xE3A02000,  # mov r2, #0
    0xEE072F5A,  # mcr p15, 0, r2, c7, c10, 2
    0xEC410F02,  # mcrr p15, 0, r0, r1, c2
    0xEE0D1F30,  # mcr p15, 0, r1, c13, c0, 1
    0xEC532F02,  # mrrc p15, 0, r2, r3, c2
    0xEE1D0F30,  # mrc p15, 0, r0, c13, c0, 1
    0xE1400074,  # hvc #4
)

REGISTERS64 = (
    # After a Set/Way writes of VM registers trap: TTBR0_EL1 is x0, CONTEXTIDR_EL1 x1.
    0xD5087A5F,  # dc csw, xzr
    0xD5182000,  # msr ttbr0_el1, x0
    0xD518D021,  # msr contextidr_el1, x1
    0xD5382002,  # mrs x2, ttbr0_el1
    0xD538D020,  # mrs x0, contextidr_el1
    0xD2800003,  # mov x3, #0
    0xD4000082,  # hvc #4
)
