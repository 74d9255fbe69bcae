# cython: language_level=3, boundscheck=False, wraparound=False
# SPDX-License-Identifier: Apache-2.0
"""What the hardware can do at best: the loops that the engine's are measured against.

Arrays are contiguous uint64; nothing is checked beyond that, these are for the benchmarks.
"""

cimport numpy as cnp
from p2mfast._engine cimport P2M, p2mfast_entry_t
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.string cimport memset as c_memset

cnp.import_array()

cdef extern from *:
    """
    #include <sys/mman.h>
    #define PREFETCH(address) __builtin_prefetch(address)

    static void *reserve(size_t bytes)
    {
        void *range = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return range == MAP_FAILED ? NULL : range;
    }

    static void give_back(void *range, size_t bytes)
    {
        munmap(range, bytes);
    }

    static void want_huge_pages(void *range, size_t bytes)
    {
        (void)madvise(range, bytes, MADV_HUGEPAGE);
    }
    """
    void PREFETCH(const void *address) nogil
    void *reserve(size_t size) nogil
    void give_back(void *memory, size_t size) nogil
    void want_huge_pages(void *memory, size_t size) nogil

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


def bare_walks(cnp.ndarray tables, uint64_t base, cnp.ndarray places):
    """Walk a tree of three levels to each place, without a check; each walk waits for the one
    before. `tables` are a P2M's, its root tables first, `base` the frame of the first."""
    cdef const uint64_t *words = <const uint64_t *>cnp.PyArray_DATA(tables)
    cdef const uint64_t *place = _words(places)
    cdef size_t n = cnp.PyArray_SIZE(places)
    cdef size_t i
    cdef uint64_t gfn
    cdef uint64_t word = 0
    cdef uint64_t nothing = n >> 63  # 0, but the compiler does not know
    with nogil:
        for i in range(n):
            gfn = place[i] + (word & nothing)
            word = words[gfn >> 18]
            word = words[((word >> 12 & <uint64_t>0xFFFFFFFFF) - base) * 512 + (gfn >> 9 & 511)]
            word = words[((word >> 12 & <uint64_t>0xFFFFFFFFF) - base) * 512 + (gfn & 511)]
    return word


def lookups(P2M p2m, cnp.ndarray places):
    """p2mfast_get_entry from C for each place, each waiting for the one before."""
    cdef const uint64_t *place = _words(places)
    cdef size_t n = cnp.PyArray_SIZE(places)
    cdef size_t i
    cdef p2mfast_entry_t entry
    cdef uint64_t nothing = n >> 63
    entry.mfn = 0
    with nogil:
        for i in range(n):
            p2m.look_up(place[i] + (entry.mfn & nothing), &entry)
    return entry.mfn


def map_and_unmap(size_t size):
    """Reserve an address range and give it back."""
    with nogil:
        give_back(reserve(size), size)


cdef enum:
    HUGE_PAGE = 2 << 20


cdef class HugePages:
    """Fresh memory for `size` bytes, a multiple of 2 MiB: nothing is there until it is written."""
    cdef void *_range
    cdef size_t _size

    def __cinit__(self, size_t size):
        self._size = size + HUGE_PAGE
        self._range = reserve(self._size)
        if self._range == NULL:
            raise MemoryError(f"{size} bytes of address space")

    def __dealloc__(self):
        if self._range != NULL:
            give_back(self._range, self._size)

    def write(self):
        """Take it in huge pages and write every byte."""
        cdef size_t start = (<size_t>self._range + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
        with nogil:
            want_huge_pages(<void *>start, self._size - HUGE_PAGE)
            c_memset(<void *>start, 1, self._size - HUGE_PAGE)


cdef class Empty:
    """An object whose method does nothing: what any call from Python costs."""

    def method(self, argument):
        """Nothing."""
