# cython: language_level=3
# SPDX-License-Identifier: Apache-2.0
"""A P2M of Python's at C speed: no Python object is made for a look-up, and no GIL is needed."""

from libc.stdint cimport uint64_t
from p2mfast._engine cimport P2M
from p2mfast.cp2mfast cimport P2MFAST_READ, p2mfast_entry_t, p2mfast_tlb_entry_t


def mapped_bytes(P2M p2m not None, uint64_t ipa, uint64_t end):
    """How many bytes of [ipa, end) are mapped, a block at a time."""
    cdef p2mfast_tlb_entry_t block
    cdef uint64_t stop
    cdef uint64_t total = 0
    cdef int error = 0
    with nogil:
        while ipa < end and not error:
            error = p2m.translate_block(ipa, P2MFAST_READ, &block)
            if error:
                break
            stop = min(block.ipa + block.size if block.size else (ipa | 0xFFF) + 1, end)
            if block.size:
                total += stop - ipa
            ipa = stop
    if error:
        raise ValueError(f"error {error} at {ipa:#x}")
    return total


def reachable_pages(P2M p2m not None, uint64_t gfn, uint64_t nr):
    """How many of nr pages from gfn on the guest may have touched."""
    cdef p2mfast_entry_t entry
    cdef uint64_t at
    cdef uint64_t total = 0
    cdef int error = 0
    with nogil:
        for at in range(gfn, gfn + nr):
            error = p2m.look_up(at, &entry)
            if error:
                break
            total += entry.reachable
    if error:
        raise ValueError(f"error {error} at GFN {at:#x}")
    return total
