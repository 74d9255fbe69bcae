# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# SPDX-License-Identifier: Apache-2.0
"""Tables in an image of memory, over csrc/image.c: arrays in, arrays out. What the image holds may
be hostile; what is given here is checked by p2mfast.image."""

cimport numpy as cnp
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

import numpy as np

from p2mfast.types import (
    EXTENT_DTYPE,
    FINDING_DTYPE,
    TABLE_DTYPE,
    TRANSLATION_DTYPE,
    WALK_STEP_DTYPE,
)

cnp.import_array()

cdef extern from "<stdbool.h>":
    ctypedef bint c_bool "bool"

cdef extern from "p2mfast/p2mfast.h" nogil:
    ctypedef struct p2mfast_translation_t:
        pass

    enum:
        P2MFAST_ERROR_IPA_BITS
        P2MFAST_ERROR_PA_BITS
        P2MFAST_ERROR_TABLE_BASE

cdef extern from "geometry.h" nogil:
    cdef struct geometry:
        uint8_t ipa_bits
        uint8_t pa_bits
        int8_t root_level
        uint16_t root_pages
        uint64_t vtcr

    int geometry_init(geometry *geometry, unsigned ipa_bits, unsigned pa_bits, unsigned vmid)

cdef extern from "image.h" nogil:
    cdef struct image_segment:
        uint64_t pa
        uint64_t bytes
        const uint8_t *data

    cdef struct image:
        geometry geometry
        uint64_t root
        uint64_t pages

    cdef struct image_list:
        void *items
        size_t n
        size_t capacity

    cdef struct image_scan:
        image_list extents
        image_list tables
        image_list findings
        uint64_t found[16]
        uint64_t ignored
        uint64_t beyond
        uint64_t most_extents
        uint64_t extents_found
        uint64_t ranges_found
        uint64_t runs_found
        uint64_t pages[16][4][2][2]
        c_bool (*grow)(image_list *list, size_t bytes) noexcept nogil
        uint8_t *marks

    cdef struct image_extent:
        pass

    cdef struct image_table:
        pass

    cdef struct image_finding:
        pass

    cdef struct image_step:
        pass

    unsigned IMAGE_FINDING_KINDS

    int image_init(image *image, uint64_t vtcr, uint64_t vttbr, unsigned pa_bits,
                   image_segment *segments, size_t n)
    int image_scan_all "image_scan"(const image *image, image_scan *scan)
    size_t image_walk(const image *image, uint64_t gfn, image_step *steps)
    void image_translate(const image *image, uint64_t ipa, unsigned access,
                         p2mfast_translation_t *result)


cdef c_bool _grow(image_list *list, size_t bytes) noexcept nogil:
    cdef size_t capacity = list.capacity * 2 if list.capacity else 64
    cdef void *items = realloc(list.items, capacity * bytes)
    if items == NULL:
        return False
    list.items = items
    list.capacity = capacity
    return True


cdef cnp.ndarray _array(image_list *list, object dtype):
    result = np.empty(list.n, dtype)
    if list.n:
        memcpy(cnp.PyArray_DATA(result), list.items, list.n * <size_t>dtype.itemsize)
    return result


def vtcr_of(unsigned ipa_bits, unsigned pa_bits):
    """VTCR_EL2 of a P2M of this size, or None where there is no such size."""
    cdef geometry layout
    if geometry_init(&layout, ipa_bits, pa_bits, 1):
        return None
    return layout.vtcr


cdef class Tables:
    """The tables that VTTBR_EL2 leads to in a physical memory of `segments`: ascending pairs of
    (address, contiguous uint8 array) that do not overlap.

    Raises LookupError whose argument is the register or size at fault: "vtcr", "pa_bits", "vttbr".
    """

    cdef image _image
    cdef image_segment *_segments
    cdef list _arrays  # keeps what the segments point to

    def __cinit__(self, list segments, uint64_t vttbr, uint64_t vtcr, unsigned pa_bits):
        cdef size_t n = len(segments)
        cdef cnp.ndarray data
        self._segments = <image_segment *>calloc(n + 1, sizeof(image_segment))
        if self._segments == NULL:
            raise MemoryError
        self._arrays = []
        for i, (pa, data) in enumerate(segments):
            self._segments[i].pa = pa
            self._segments[i].bytes = data.shape[0]
            self._segments[i].data = <const uint8_t *>cnp.PyArray_DATA(data)
            self._arrays.append(data)
        error = image_init(&self._image, vtcr, vttbr, pa_bits, self._segments, n)
        if error == P2MFAST_ERROR_IPA_BITS:
            raise LookupError("vtcr")
        if error == P2MFAST_ERROR_PA_BITS:
            raise LookupError("pa_bits")
        if error == P2MFAST_ERROR_TABLE_BASE:
            raise LookupError("vttbr")
        if error:
            raise ValueError("segments overlap, or do not ascend")

    def __dealloc__(self):
        free(self._segments)

    @property
    def ipa_bits(self):
        return self._image.geometry.ipa_bits

    @property
    def pa_bits(self):
        return self._image.geometry.pa_bits

    @property
    def root_level(self):
        return self._image.geometry.root_level

    @property
    def root_pages(self):
        return self._image.geometry.root_pages

    @property
    def root(self):
        return self._image.root

    def scan(self, uint64_t most_extents):
        """(extents, no more than that; tables; findings; found of each kind; words ignored; pages
        beyond the output size; how many extents, ranges and runs there are; pages by type, level, valid and reachable)."""
        cdef image_scan scan
        cdef int error
        scan.extents = scan.tables = scan.findings = image_list(NULL, 0, 0)
        scan.most_extents = most_extents
        scan.grow = _grow
        scan.marks = <uint8_t *>calloc(self._image.pages + 1, 1)
        if scan.marks == NULL:
            raise MemoryError
        try:
            with nogil:
                error = image_scan_all(&self._image, &scan)
            if error:
                raise MemoryError("no memory for what the image maps")
            pages = np.empty((16, 4, 2, 2), np.uint64)
            memcpy(cnp.PyArray_DATA(pages), scan.pages, sizeof(scan.pages))
            return (_array(&scan.extents, EXTENT_DTYPE), _array(&scan.tables, TABLE_DTYPE),
                    _array(&scan.findings, FINDING_DTYPE),
                    [scan.found[i] for i in range(IMAGE_FINDING_KINDS)], scan.ignored, scan.beyond,
                    (scan.extents_found, scan.ranges_found, scan.runs_found), pages)
        finally:
            free(scan.marks)
            free(scan.extents.items)
            free(scan.tables.items)
            free(scan.findings.items)

    def walk(self, uint64_t gfn):
        """The descriptors on the way to a GFN inside the space: WALK_STEP_DTYPE."""
        steps = np.zeros(8, WALK_STEP_DTYPE)
        cdef size_t n = image_walk(&self._image, gfn, <image_step *>cnp.PyArray_DATA(steps))
        return steps[:n]

    def translate(self, cnp.ndarray ipas, unsigned rights):
        """The MMU's view of accesses to contiguous uint64 `ipas`: TRANSLATION_DTYPE."""
        cdef size_t n = ipas.shape[0]
        cdef cnp.ndarray results = np.empty(n, TRANSLATION_DTYPE)
        cdef const uint64_t *source = <const uint64_t *>cnp.PyArray_DATA(ipas)
        cdef p2mfast_translation_t *target = <p2mfast_translation_t *>cnp.PyArray_DATA(results)
        cdef size_t i
        with nogil:
            for i in range(n):
                image_translate(&self._image, source[i], rights, &target[i])
        return results
