# P2M for other Cython modules: what it has at C speed. They link nothing: these methods go through
# the class. SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t
from p2mfast.cp2mfast cimport *


cdef class P2M:
    cdef p2mfast_t *_p2m
    cdef readonly unsigned ipa_bits
    cdef readonly unsigned pa_bits
    cdef readonly unsigned vmid
    cdef object __weakref__
    cdef int translate_block(self, uint64_t ipa, unsigned access,
                             p2mfast_tlb_entry_t *entry) noexcept nogil
    cdef int look_up(self, uint64_t gfn, p2mfast_entry_t *entry) noexcept nogil
