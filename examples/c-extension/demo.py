"""Counts what a guest touched, in C, on a P2M that Python made."""

import touches

import p2mfast as pf

p2m = pf.P2M()
p2m.set_entry(0x40000, 512, 0x80000)
p2m.set_entry(0x40007, 1, 0x99999)  # pages from now on
p2m.invalidate_root()
assert touches.count(p2m, 0x40000, 512) == 0
for gfn in (0x40001, 0x40007, 0x401FF):
    p2m.resolve_translation_fault(gfn)
print("touched:", touches.count(p2m, 0x40000, 512), "pages")
assert touches.count(p2m, 0x40000, 512) == 3
try:
    touches.count("no P2M", 0, 1)
except TypeError as error:
    print(error)
else:
    raise AssertionError("a string was taken for a P2M")
