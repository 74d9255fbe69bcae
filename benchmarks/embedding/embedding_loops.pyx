# cython: language_level=3, boundscheck=False, wraparound=False
# SPDX-License-Identifier: Apache-2.0
"""The loops of loops.h, and the same in Cython, for run.py."""

from libc.stdint cimport uint64_t

from p2mfast._engine cimport P2M, p2mfast_entry_t, p2mfast_t, p2mfast_tlb_entry_t


cdef extern from "loops.h" nogil:
    ctypedef struct p2mfast_capi_t:
        p2mfast_t *(*from_object)(object p2m) except NULL
        int (*get_entry)(const p2mfast_t *p2m, uint64_t gfn,
                         p2mfast_entry_t *entry) noexcept nogil
        int (*translate_block)(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                               p2mfast_tlb_entry_t *entry) noexcept nogil

    const p2mfast_capi_t *p2mfast_import() except NULL with gil
    p2mfast_t *p2mfast_restore(const void *buffer, size_t size, const void *config, int *error)
    void p2mfast_destroy(p2mfast_t *p2m)

    uint64_t FAILED
    uint64_t c_linked_get_entry(p2mfast_t *p2m, const uint64_t *gfns, size_t n)
    uint64_t c_linked_translate_block(p2mfast_t *p2m, const uint64_t *ipas, size_t n)
    uint64_t c_capsule_get_entry(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                 const uint64_t *gfns, size_t n)
    uint64_t c_capsule_translate_block(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                       const uint64_t *ipas, size_t n)
    uint64_t cpp_linked_get_entry(p2mfast_t *p2m, const uint64_t *gfns, size_t n)
    uint64_t cpp_linked_translate_block(p2mfast_t *p2m, const uint64_t *ipas, size_t n)
    uint64_t cpp_capsule_get_entry(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                   const uint64_t *gfns, size_t n)
    uint64_t cpp_capsule_translate_block(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                         const uint64_t *ipas, size_t n)


cdef uint64_t cython_capsule_get_entry(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                       const uint64_t *gfns, size_t n) noexcept nogil:
    cdef p2mfast_entry_t entry
    cdef uint64_t total = 0
    cdef size_t i
    for i in range(n):
        if engine.get_entry(p2m, gfns[i], &entry):
            return FAILED
        total += entry.mfn
    return total


cdef uint64_t cython_capsule_translate_block(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                             const uint64_t *ipas, size_t n) noexcept nogil:
    cdef p2mfast_tlb_entry_t entry
    cdef uint64_t total = 0
    cdef size_t i
    for i in range(n):
        if engine.translate_block(p2m, ipas[i], 1, &entry):
            return FAILED
        total += entry.pa
    return total


cdef uint64_t cython_method_get_entry(P2M p2m, const uint64_t *gfns, size_t n) noexcept nogil:
    cdef p2mfast_entry_t entry
    cdef uint64_t total = 0
    cdef size_t i
    for i in range(n):
        if p2m.look_up(gfns[i], &entry):
            return FAILED
        total += entry.mfn
    return total


cdef uint64_t cython_method_translate_block(P2M p2m, const uint64_t *ipas, size_t n) noexcept nogil:
    cdef p2mfast_tlb_entry_t entry
    cdef uint64_t total = 0
    cdef size_t i
    for i in range(n):
        if p2m.translate_block(ipas[i], 1, &entry):
            return FAILED
        total += entry.pa
    return total


cdef class Loops:
    """The loops over a P2M and, for the linked engine, over a copy of it of that engine's own."""

    cdef P2M p2m
    cdef p2mfast_t *copy
    cdef p2mfast_t *handle
    cdef const p2mfast_capi_t *engine

    def __cinit__(self, P2M p2m):
        cdef bytes checkpoint = p2m.checkpoint()
        self.p2m = p2m
        self.engine = p2mfast_import()
        self.handle = self.engine.from_object(p2m)
        self.copy = p2mfast_restore(<const char *>checkpoint, len(checkpoint), NULL, NULL)
        if not self.copy:
            raise MemoryError

    def __dealloc__(self):
        p2mfast_destroy(self.copy)

    def c_linked_get_entry(self, const uint64_t[::1] gfns):
        return c_linked_get_entry(self.copy, &gfns[0], gfns.shape[0])

    def c_linked_translate_block(self, const uint64_t[::1] ipas):
        return c_linked_translate_block(self.copy, &ipas[0], ipas.shape[0])

    def c_capsule_get_entry(self, const uint64_t[::1] gfns):
        return c_capsule_get_entry(self.engine, self.handle, &gfns[0], gfns.shape[0])

    def c_capsule_translate_block(self, const uint64_t[::1] ipas):
        return c_capsule_translate_block(self.engine, self.handle, &ipas[0], ipas.shape[0])

    def cpp_linked_get_entry(self, const uint64_t[::1] gfns):
        return cpp_linked_get_entry(self.copy, &gfns[0], gfns.shape[0])

    def cpp_linked_translate_block(self, const uint64_t[::1] ipas):
        return cpp_linked_translate_block(self.copy, &ipas[0], ipas.shape[0])

    def cpp_capsule_get_entry(self, const uint64_t[::1] gfns):
        return cpp_capsule_get_entry(self.engine, self.handle, &gfns[0], gfns.shape[0])

    def cpp_capsule_translate_block(self, const uint64_t[::1] ipas):
        return cpp_capsule_translate_block(self.engine, self.handle, &ipas[0], ipas.shape[0])

    def cython_capsule_get_entry(self, const uint64_t[::1] gfns):
        return cython_capsule_get_entry(self.engine, self.handle, &gfns[0], gfns.shape[0])

    def cython_capsule_translate_block(self, const uint64_t[::1] ipas):
        return cython_capsule_translate_block(self.engine, self.handle, &ipas[0], ipas.shape[0])

    def cython_method_get_entry(self, const uint64_t[::1] gfns):
        return cython_method_get_entry(self.p2m, &gfns[0], gfns.shape[0])

    def cython_method_translate_block(self, const uint64_t[::1] ipas):
        return cython_method_translate_block(self.p2m, &ipas[0], ipas.shape[0])
