# cython: language_level=3, boundscheck=False, wraparound=False
# SPDX-License-Identifier: Apache-2.0
"""What the hardware can do at best: the loops that the engine's are measured against.

Arrays are contiguous uint64; nothing is checked beyond that, these are for the benchmarks.
"""

cimport numpy as cnp
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.string cimport memset as c_memset

cnp.import_array()

cdef extern from *:
    """
    #define PREFETCH(address) __builtin_prefetch(address)
    """
    void PREFETCH(const void *address) nogil

cdef enum:
    AHEAD = 24


cdef uint64_t *_words(cnp.ndarray array):
    if cnp.PyArray_TYPE(array) != cnp.NPY_UINT64 or not cnp.PyArray_ISCARRAY(array):
        raise TypeError("the array must be of contiguous uint64")
    return <uint64_t *>cnp.PyArray_DATA(array)


def memset(cnp.ndarray array, int value):
    """Write every byte."""
    cdef uint64_t *words = _words(array)
    cdef size_t size = cnp.PyArray_NBYTES(array)
    with nogil:
        c_memset(words, value, size)


def read_sum(cnp.ndarray array):
    """Read every word once, in order; their sum."""
    cdef const uint64_t *words = _words(array)
    cdef size_t n = cnp.PyArray_SIZE(array)
    cdef size_t i
    cdef uint64_t total = 0
    with nogil:
        for i in range(n):
            total += words[i]
    return total


def prefetched_loads(cnp.ndarray array, cnp.ndarray places):
    """Load the words at `places`, each prefetched well before; their sum."""
    cdef const uint64_t *words = _words(array)
    cdef const uint64_t *place = _words(places)
    cdef size_t n = cnp.PyArray_SIZE(places)
    cdef size_t i
    cdef uint64_t total = 0
    with nogil:
        for i in range(n):
            if i + AHEAD < n:
                PREFETCH(words + place[i + AHEAD])
            total += words[place[i]]
    return total


def dependent_loads(cnp.ndarray array, size_t n):
    """Follow a chain of n words, each the place of the next: none can be fetched ahead."""
    cdef const uint64_t *words = _words(array)
    cdef size_t i
    cdef uint64_t place = 0
    with nogil:
        for i in range(n):
            place = words[place]
    return place


cdef class Empty:
    """An object whose method does nothing: what any call from Python costs."""

    def method(self, argument):
        """Nothing."""
