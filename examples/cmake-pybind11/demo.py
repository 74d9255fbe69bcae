"""A guest runs on the C++ core; what it touched is harvested here."""

import gc

import simulator

import p2mfast as pf

p2m = simulator.guest(0x40000, 4096, 0x80200)  # made in C++: 16 MiB
assert isinstance(p2m, pf.P2M)
p2m.set_entry(0x48000, 64, 0x90001)  # in pages
p2m.invalidate_root()

core = simulator.Core(p2m)
assert core.p2m is p2m
for page in (1, 2, 40):
    core.store([0x4800_0000 + page * 4096 + offset for offset in range(0, 512, 8)])
core.store([0x7000_0000])
counts = core.counts
print(f"{counts.hits} TLB hits, {counts.fills} fills, {counts.traps} traps, {counts.aborts} abort")
assert (counts.hits, counts.fills, counts.traps, counts.aborts) == (3 * 63, 3, 3, 1)

touched = p2m.harvest()
print(touched.pages, "pages touched")
assert touched.runs["gfn"].tolist() == [0x48001, 0x48028]

core.store([0x4800_1000])  # armed again, and the TLB knows it
assert core.counts.traps == 4

del p2m  # the core holds it
gc.collect()
core.store([0x4800_2000])
assert core.counts.traps == 5
