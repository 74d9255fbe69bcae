"""Both ways: on a P2M of Python's, and on one of the module's own."""

import lookups
import own

import p2mfast as pf

p2m = pf.P2M()
p2m.set_entry(0x40000, 1024, 0x80200)  # 4 MiB
p2m.set_entry(0x50000, 3, 0x99999)
assert lookups.mapped_bytes(p2m, 0x4000_0800, 0x5000_3000) == (4 << 20) - 0x800 + 3 * 4096

p2m.invalidate_root()
p2m.resolve_translation_fault(0x50001)
print("touched:", lookups.reachable_pages(p2m, 0x50000, 3), "page")
assert lookups.reachable_pages(p2m, 0x50000, 3) == 1

guest = own.Guest(0x40000, 512, 0x80000)
assert guest.pa(0x4000_0123) == 0x8000_0123
assert guest.pa(0x1000) is None
try:
    own.Guest(1 << 40, 1, 0)
except ValueError as error:
    print(error)
else:
    raise AssertionError("a GFN beyond 36 bits of IPA was taken")
