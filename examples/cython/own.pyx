# cython: language_level=3
# SPDX-License-Identifier: Apache-2.0
"""A P2M that is no Python object: the raw C API, from the static library."""

from libc.stdint cimport uint64_t
from p2mfast.cp2mfast cimport (
    P2MFAST_ACCESS_RWX,
    P2MFAST_RAM_RW,
    P2MFAST_WRITE,
    p2mfast_config_init,
    p2mfast_config_t,
    p2mfast_create_with_error,
    p2mfast_destroy,
    p2mfast_error_words,
    p2mfast_set_entry,
    p2mfast_t,
    p2mfast_translate,
    p2mfast_translation_t,
)


cdef class Guest:
    """A guest with some RAM."""

    cdef p2mfast_t *_p2m

    def __cinit__(self, uint64_t gfn, uint64_t nr, uint64_t mfn):
        cdef p2mfast_config_t config
        cdef int error = 0
        p2mfast_config_init(&config)
        config.ipa_bits = 36
        self._p2m = p2mfast_create_with_error(&config, &error)
        if self._p2m:
            error = p2mfast_set_entry(self._p2m, gfn, nr, mfn, P2MFAST_RAM_RW,
                                      P2MFAST_ACCESS_RWX, 0)
        if error:
            raise ValueError(p2mfast_error_words(error).decode())

    def __dealloc__(self):
        p2mfast_destroy(self._p2m)

    def pa(self, uint64_t ipa):
        """Where the guest's store to this address goes; None: it faults."""
        cdef p2mfast_translation_t t
        p2mfast_translate(self._p2m, ipa, P2MFAST_WRITE, &t)
        return None if t.fault else t.pa
