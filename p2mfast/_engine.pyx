# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# SPDX-License-Identifier: Apache-2.0
"""P2M over the C engine: arguments in, exceptions and arrays out. No loop over pages is here."""

cimport cython
cimport numpy as cnp
from cpython.bool cimport PyBool_Check
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.long cimport PyLong_CheckExact
from cpython.pycapsule cimport PyCapsule_New
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memmove

import operator

import numpy as np

from p2mfast.errors import (
    AddressBeyondSpace,
    MappingMismatch,
    OutOfRange,
    OutOfTables,
    P2MError,
    Stage2Fault,
)
from p2mfast.types import (
    ACCESS_DTYPE,
    ENTRY_DTYPE,
    EVENT_DTYPE,
    INVALID_MFN,
    MAPPED_RUN_DTYPE,
    RUN_DTYPE,
    TRANSLATION_DTYPE,
    WORD_DTYPE,
    Access,
    Attributes,
    FaultKind,
    Flush,
    P2MType,
    Stats,
    Translation,
)

cnp.import_array()

cdef extern from *:
    """
    #define INVALID_U64 UINT64_MAX
    """
    uint64_t INVALID_U64
    # Without Cython's own check, so that the common case costs no look at the error indicator.
    uint64_t as_u64 "PyLong_AsUnsignedLongLong"(object value)

include "_arguments.pxi"
include "_entry.pxi"

# For a P2M around a handle that is there already.
cdef object _ADOPTED = object()


# ---- The P2M ----


cdef class P2M:
    """A guest's stage-2 page table: guest frames (GFN) to machine frames (MFN).

    A tree of 512-entry tables of 64-bit LPAE descriptors as an Arm MMU walks them (Arm ARM
    DDI 0487, D8; 4 KiB granule), with the semantics of Xen's P2M (xen/arch/arm/mmu/p2m.c).

    Parameters
    ----------
    ipa_bits : 32, 36, 40, 42, 44 or 48
        Size of the guest's physical address space.
    vmid : int
        0 to 65535; goes into VTTBR_EL2.
    pa_bits : 32, 36, 40, 42, 44 or 48
        Size of the machine's: VTCR_EL2.PS.
    max_tables : int, optional
        Quota of tables besides the roots.
    table_base_mfn : int, optional
        Machine frame of the first table. By default one that any core with 40 bits of physical
        address reaches (512 GiB, or the middle of a smaller ``pa_bits``).

    Raises
    ------
    ValueError
        A size that does not exist; a ``table_base_mfn`` outside ``pa_bits`` or not aligned to the
        concatenated root tables.
    MemoryError
        The address range for the tables cannot be reserved.

    All methods may be called from any thread. Units are frames of 4 KiB unless a name says
    otherwise (``ipa``: bytes). A call that raises has changed nothing.
    """

    def __cinit__(self, ipa_bits=40, *, vmid=1, pa_bits=48, max_tables=None, table_base_mfn=None):
        cdef p2mfast_config_t config
        if ipa_bits is _ADOPTED:
            return
        p2mfast_config_init(&config)
        self._p2m = _created(&config, ipa_bits, vmid, pa_bits, max_tables, table_base_mfn)
        self.ipa_bits = config.ipa_bits
        self.pa_bits = config.pa_bits
        self.vmid = config.vmid

    def __dealloc__(self):
        p2mfast_destroy(self._p2m)

    def __repr__(self):
        stats = self.stats
        leaves = "/".join(map(str, stats.mappings))
        return (f"P2M(ipa_bits={self.ipa_bits}, vmid={self.vmid}): {stats.tables} tables,"
                f" {leaves} mappings at levels 0/1/2/3")

    def _repr_html_(self):
        # Stands above the engine, and is needed in notebooks alone.
        from p2mfast.image import Image
        from p2mfast.image.notebook import html_of
        return html_of(Image.of(self), repr(self))

    # ---- Facts ----

    @property
    def root_level(self):
        """Level of the root tables: 0 or 1."""
        return p2mfast_root_level(self._p2m)

    @property
    def root_pages(self):
        """Number of concatenated root tables."""
        return p2mfast_root_pages(self._p2m)

    @property
    def vector_loops(self):
        """Which loops over descriptors it uses: "portable", "avx2" or "x86-64-v4".

        The best this machine runs, or what the environment variable P2MFAST_VEC names.
        """
        return p2mfast_vector_loops(self._p2m).decode()

    @property
    def vtcr(self):
        """VTCR_EL2 for these tables (Arm ARM DDI 0487, D19.2)."""
        return p2mfast_vtcr(self._p2m)

    @property
    def vttbr(self):
        """VTTBR_EL2: the first root table's address and the VMID."""
        return p2mfast_vttbr(self._p2m)

    @property
    def lowest_mapped_gfn(self):
        """Lowest GFN ever mapped (relinquish moves it up), or None while nothing was."""
        cdef uint64_t gfn = p2mfast_lowest_mapped_gfn(self._p2m)
        return None if gfn == P2MFAST_INVALID_GFN else gfn

    @property
    def max_mapped_gfn(self):
        """Highest GFN ever mapped, or None while nothing was."""
        cdef uint64_t gfn = p2mfast_max_mapped_gfn(self._p2m)
        return None if gfn == P2MFAST_INVALID_GFN else gfn

    @property
    def max_tables(self):
        """Quota of tables besides the roots; None: as many as fit. It may be changed.

        Raises OutOfTables for one below the tables in use (Xen's p2m_set_allocation).
        """
        cdef uint64_t tables = p2mfast_max_tables(self._p2m)
        return None if tables == P2MFAST_UNLIMITED else tables

    @max_tables.setter
    def max_tables(self, value):
        cdef uint64_t tables = P2MFAST_UNLIMITED if value is None else _u64(value, "max_tables")
        if p2mfast_set_max_tables(self._p2m, tables):
            raise OutOfTables(f"max_tables {value}: {self.stats.tables} are in use")

    @property
    def stats(self):
        """A :class:`Stats` snapshot."""
        cdef p2mfast_stats_t stats
        with nogil:
            p2mfast_get_stats(self._p2m, &stats)
        return Stats(tuple(stats.mappings), tuple(stats.shattered), stats.tables,
                     stats.tlb_flushes, stats.resolved, stats.armed, stats.free_tables,
                     stats.reserved_bytes, tuple(stats.resolved_levels))

    @property
    def table_base_mfn(self):
        """Machine frame of row 0 of :attr:`tables`."""
        cdef const uint64_t *first
        cdef uint64_t rows
        cdef uint64_t base
        p2mfast_tables(self._p2m, &first, &rows, &base)
        return base

    @property
    def tables(self):
        """The live descriptors, read-only, without a copy: uint64 of shape (rows, 512).

        Up to the highest table frame in use so far; take it again after mapping more. The memory
        stays where it is for the P2M's life, and the view keeps the P2M alive.
        """
        cdef const uint64_t *first
        cdef uint64_t rows
        cdef uint64_t base
        cdef cnp.npy_intp shape[2]
        p2mfast_tables(self._p2m, &first, &rows, &base)
        shape[0] = rows
        shape[1] = 512
        cdef cnp.ndarray view = cnp.PyArray_SimpleNewFromData(2, shape, cnp.NPY_UINT64,
                                                              <void *>first)
        Py_INCREF(self)
        cnp.PyArray_SetBaseObject(view, self)
        view.flags.writeable = False
        return view

    def copy_tables(self):
        """A copy of :attr:`tables` as they are at one moment, whatever other threads do."""
        return _copied_tables(self)

    # ---- Look-ups ----

    def get_entry(self, gfn):
        """What ``gfn`` is mapped to, as an :class:`Entry` (Xen's p2m_get_entry).

        Raises OutOfRange for a GFN beyond the IPA size.
        """
        cdef uint64_t frame = _gfn(self, gfn)
        cdef Entry entry = Entry.__new__(Entry)
        p2mfast_get_entry(self._p2m, frame, &entry._entry)
        return entry

    cdef int look_up(self, uint64_t gfn, p2mfast_entry_t *entry) noexcept nogil:
        """The same from Cython: 0 or a negative error."""
        return p2mfast_get_entry(self._p2m, gfn, entry)

    def get_entries(self, gfns, out=None):
        """The same for an array of GFNs: a structured array (:data:`ENTRY_DTYPE`).

        Raises OutOfRange, TypeError (dtype), ValueError (shape; ``out`` not writeable).
        """
        cdef cnp.ndarray frames = _u64_array(gfns, "gfns")
        cdef size_t n = frames.shape[0]
        cdef cnp.ndarray result = _output(out, ENTRY_DTYPE, n)
        cdef const uint64_t *source = <const uint64_t *>cnp.PyArray_DATA(frames)
        cdef p2mfast_entry_t *target = <p2mfast_entry_t *>cnp.PyArray_DATA(result)
        cdef int error
        with nogil:
            error = p2mfast_get_entries(self._p2m, source, n, target)
        if error:
            _raise_gfn(self, frames)
            _raise(self, error)
        return result

    def translate(self, ipa, access="r"):
        """The MMU's view of an access to byte address ``ipa``: a :class:`Translation`.

        ``access`` is made of "r", "w" and "x". Raises Stage2Fault as the MMU would; for an address
        beyond the IPA size that is a translation fault of level 0, an OutOfRange as well.
        """
        cdef p2mfast_translation_t result
        cdef uint64_t address = _u64(ipa, "ipa")
        cdef unsigned rights = _member(_RIGHTS, access, "access")
        p2mfast_translate(self._p2m, address, rights, &result)
        if address >> self.ipa_bits:
            raise AddressBeyondSpace(address, access)
        if result.fault:
            raise _stage2_fault(self, address, access, rights, &result)
        return Translation(result.pa, result.level, Attributes(result.attrs))

    def translate_many(self, ipas, access="r", out=None):
        """The same for an array of byte addresses: a structured array (:data:`TRANSLATION_DTYPE`)
        whose ``fault`` is a :class:`FaultKind`, 0 where the access succeeds."""
        cdef cnp.ndarray addresses = _u64_array(ipas, "ipas")
        cdef size_t n = addresses.shape[0]
        cdef unsigned rights = _member(_RIGHTS, access, "access")
        cdef cnp.ndarray result = _output(out, TRANSLATION_DTYPE, n)
        cdef const uint64_t *source = <const uint64_t *>cnp.PyArray_DATA(addresses)
        cdef p2mfast_translation_t *target = (
            <p2mfast_translation_t *>cnp.PyArray_DATA(result))
        with nogil:
            p2mfast_translate_many(self._p2m, source, n, rights, target)
        return result

    cdef int translate_block(self, uint64_t ipa, unsigned access,
                             p2mfast_tlb_entry_t *entry) noexcept nogil:
        """From Cython: the MMU's view of an access as a TLB keeps it; 0 or a negative error."""
        return p2mfast_translate_block(self._p2m, ipa, access, entry)

    @property
    def tlb_generation(self):
        """How many TLB invalidations there were; translations copied when there were fewer are
        stale. As stats.tlb_flushes, but without the lock."""
        return p2mfast_tlb_generation(self._p2m)

    # ---- Updates ----

    def set_entry(self, gfn, nr, mfn, type=P2MType.RAM_RW, access=Access.RWX, armed=False,
                  max_order=18):
        """Map ``nr`` pages from ``gfn`` to ``mfn`` on; ``mfn=None`` removes (Xen's p2m_set_entry).

        Superpages of 1 GiB and 2 MiB where gfn, mfn and the pages left are aligned, none above
        ``max_order`` (18, 9 or 0); a superpage that is changed in part is shattered. ``armed``
        writes the leaves with bit 0 clear, so that their first touch faults.

        Raises OutOfRange, OutOfTables, ValueError (``nr`` 0; type INVALID with an MFN).
        """
        cdef uint64_t first = _gfn(self, gfn)
        cdef uint64_t pages = _nr(self, nr, first)
        cdef uint64_t frame = P2MFAST_INVALID_MFN if mfn is None else _mfn(self, mfn, pages)
        cdef unsigned kind
        cdef unsigned rights
        cdef unsigned flags = _leaf(type, access, armed, max_order, &kind, &rights)
        cdef int error
        if kind == 0 and mfn is not None:
            raise ValueError(f"type INVALID cannot map mfn {mfn!r}: use mfn=None to remove")
        with nogil:
            error = p2mfast_set_entry(self._p2m, first, pages, frame, kind, rights, flags)
        if error:
            _raise(self, error)

    def set_entries(self, gfns, mfns, type=P2MType.RAM_RW, access=Access.RWX, armed=False):
        """Map single pages: arrays of equal length; of equal GFNs the last wins, and an MFN of
        INVALID_MFN removes its page.

        Raises OutOfRange, OutOfTables, TypeError (dtype), ValueError (shape, length, type INVALID).
        """
        cdef cnp.ndarray guests = _u64_array(gfns, "gfns")
        cdef cnp.ndarray machines = _u64_array(mfns, "mfns")
        cdef unsigned kind
        cdef unsigned rights
        cdef unsigned flags = _leaf(type, access, armed, 18, &kind, &rights)
        cdef size_t n = guests.shape[0]
        cdef const uint64_t *guest = <const uint64_t *>cnp.PyArray_DATA(guests)
        cdef const uint64_t *machine = <const uint64_t *>cnp.PyArray_DATA(machines)
        cdef int error
        _same_length(guests, "gfns", machines, "mfns")
        if kind == 0:
            raise ValueError("type INVALID cannot map pages: use an MFN of INVALID_MFN to remove")
        with nogil:
            error = p2mfast_set_entries(self._p2m, guest, machine, n, kind, rights, flags)
        if error == P2MFAST_ERROR_RANGE:
            _raise_gfn(self, guests)
            _raise_mfn(self, machines)
        if error:
            _raise(self, error)

    def remove_mapping(self, gfn, nr, mfn):
        """Remove ``nr`` pages that are mapped to ``mfn`` on (Xen's p2m_remove_mapping).

        Raises MappingMismatch where other RAM is there (holes, MMIO and IOMMU mappings pass),
        OutOfRange, OutOfTables, ValueError (``nr`` 0).
        """
        cdef uint64_t first = _gfn(self, gfn)
        cdef uint64_t pages = _nr(self, nr, first)
        cdef uint64_t frame = _mfn(self, mfn, pages)
        cdef int error
        with nogil:
            error = p2mfast_remove_mapping(self._p2m, first, pages, frame)
        if error:
            _raise(self, error)

    @property
    def mem_access_enabled(self):
        """Whether the access of each page is kept (see :meth:`enable_mem_access`)."""
        return p2mfast_mem_access_enabled(self._p2m) != 0

    def enable_mem_access(self, enabled=True):
        """Keep each page's access, as a monitor of the guest needs it (Xen's mem_access).

        New mappings are then made of 4 KiB pages, and :meth:`get_entry` reports the access each was
        given. ``enabled=False`` ends that: look-ups say RWX, and what was kept is there again when
        it is enabled anew.
        """
        cdef int on = bool(enabled)
        cdef int error = p2mfast_enable_mem_access(self._p2m, on)
        if error:
            _raise(self, error)

    def set_mem_access(self, gfn, nr, access):
        """Give what is mapped of ``nr`` pages from ``gfn`` on this :class:`Access`; enables
        mem_access (Xen's p2m_set_mem_access).

        Superpages are shattered, holes stay holes, an armed page stays armed. One TLB invalidation
        at the end. Raises OutOfRange, OutOfTables, ValueError (``nr`` 0; ``access``).
        """
        cdef uint64_t first = _gfn(self, gfn)
        cdef uint64_t pages = _nr(self, nr, first)
        cdef unsigned rights = _enumerated(Access, access, "access")
        cdef int error
        with nogil:
            error = p2mfast_set_mem_access(self._p2m, first, pages, rights)
        if error:
            _raise(self, error)

    def relinquish(self, budget=None):
        """Remove every leaf, keep the tables (Xen's relinquish_p2m_mapping); whether it is done.

        ``budget``: entries and holes to pass in this call; the next one goes on.
        """
        cdef uint64_t units = P2MFAST_UNLIMITED if budget is None else _u64(budget, "budget")
        cdef int result
        with nogil:
            result = p2mfast_relinquish(self._p2m, units)
        if result < 0:
            _raise(self, result)
        return result == 0

    # ---- Tracking ----

    def invalidate_root(self):
        """Arm everything: clear bit 0 of every word of every root table (p2m_invalidate_root)."""
        with nogil:
            p2mfast_invalidate_root(self._p2m)

    def resolve_translation_fault(self, gfn, depth="path", order=0):
        """Make ``gfn`` reachable again; whether it is mapped (p2m_resolve_translation_fault).

        ``depth``: "path" in one step, or "level", one level a call, as Xen. ``order``: the aligned
        group of 2**order pages made reachable with it (0 to 18). Raises OutOfRange.
        """
        cdef uint64_t frame = _gfn(self, gfn)
        cdef unsigned how = _member(_DEPTHS, depth, "depth")
        cdef unsigned group = _order(order)
        cdef int result
        with nogil:
            result = p2mfast_resolve_translation_fault(self._p2m, frame, how, group)
        return result == 1

    def resolve_translation_faults(self, gfns, depth="path", order=0):
        """The same for an array of GFNs, one after the other: a bool array."""
        cdef cnp.ndarray frames = _u64_array(gfns, "gfns")
        cdef unsigned how = _member(_DEPTHS, depth, "depth")
        cdef unsigned group = _order(order)
        cdef size_t n = frames.shape[0]
        cdef cnp.ndarray result = np.zeros(n, np.bool_)
        cdef const uint64_t *source = <const uint64_t *>cnp.PyArray_DATA(frames)
        cdef uint8_t *target = <uint8_t *>cnp.PyArray_DATA(result)
        cdef int error
        with nogil:
            error = p2mfast_resolve_translation_faults(self._p2m, source, n, how, group, target)
        if error:
            _raise_gfn(self, frames)
            _raise(self, error)
        return result

    def access_many(self, ipas, kinds, depth="path", order=0):
        """A guest's accesses to byte addresses: translate, resolve translation faults of armed
        entries, try again.

        ``kinds``: R 1, W 2, X 4, or-ed, an array as long as ``ipas``. ``depth=None`` resolves
        nothing. Returns a structured array (:data:`ACCESS_DTYPE`): ``traps``, the faults resolved
        for the access, and ``fault``, the :class:`FaultKind` that is left (0: it succeeds).
        """
        cdef cnp.ndarray addresses = _u64_array(ipas, "ipas")
        cdef cnp.ndarray rights = _u64_array(kinds, "kinds")
        cdef unsigned how = P2MFAST_DEPTH_PATH if depth is None else _member(_DEPTHS, depth,
                                                                            "depth")
        cdef unsigned group = _order(order)
        cdef int resolves = depth is not None
        cdef size_t n = addresses.shape[0]
        cdef cnp.ndarray traps = np.zeros(n, np.uint8)
        cdef cnp.ndarray faults = np.zeros(n, np.uint8)
        _same_length(addresses, "ipas", rights, "kinds")
        bad = np.flatnonzero((rights == 0) | (rights > 7))
        if bad.size:
            raise ValueError(f"kinds[{bad[0]}] must be from 1 to 7 (R 1, W 2, X 4, or-ed), not"
                             f" {rights[bad[0]]}")
        cdef cnp.ndarray bits = rights.astype(np.uint8)
        cdef const uint64_t *source = <const uint64_t *>cnp.PyArray_DATA(addresses)
        cdef const uint8_t *kind = <const uint8_t *>cnp.PyArray_DATA(bits)
        cdef uint8_t *trap = <uint8_t *>cnp.PyArray_DATA(traps)
        cdef uint8_t *fault = <uint8_t *>cnp.PyArray_DATA(faults)
        with nogil:
            p2mfast_access_many(self._p2m, source, kind, n, resolves, how, group, trap, fault)
        result = np.empty(n, ACCESS_DTYPE)
        result["traps"] = traps
        result["fault"] = faults
        return result

    def harvest(self):
        """Collect every reachable RAM page and arm the root, in one step: a :class:`Flush`.

        A page touched meanwhile is either collected or stays reachable for the next one. Clean
        the runs afterwards.
        """
        cdef _Runs runs = _Runs()
        cdef uint64_t cursor = 0
        cdef p2mfast_run_t *free
        cdef size_t room
        cdef size_t more
        cdef int result = 1
        while result:
            room = runs.room()
            free = runs.free()
            with nogil:
                result = p2mfast_harvest(self._p2m, &cursor, free, room, &more)
            runs.added(more)
        collected = runs.result()
        return Flush(int(collected["nr"].sum()), _limit(self), True, collected)

    def cache_flush_range(self, start, end, skip="path", budget=None):
        """The RAM of [start, end) that a cache flush cleans: a :class:`Flush`
        (Xen's p2m_cache_flush_range).

        ``skip``: "path" leaves out what is not reachable, "leaf" only leaves whose own bit 0 is
        clear, as Xen, "none" nothing. ``budget``, in Xen's units (1 a region skipped, 10 a page
        cleaned, looked at before each): a call that has used it up stops, and is resumed with
        ``start=next_gfn``; it always makes progress. An ``end`` beyond the space is clamped, one
        beyond 2**52 refused. Changes nothing.
        """
        cdef p2mfast_flush_t flush
        cdef uint64_t first = _u64(start, "start")
        cdef uint64_t last = _u64(end, "end")
        cdef unsigned leave_out = _member(_SKIPS, skip, "skip")
        cdef uint64_t units = P2MFAST_UNLIMITED if budget is None else _u64(budget, "budget")
        cdef _Runs runs = _Runs()
        cdef p2mfast_run_t *free
        cdef size_t room
        cdef size_t more
        cdef int result = 1
        if first > _limit(self):
            raise OutOfRange(f"start {first:#x} is beyond the {self.ipa_bits}-bit IPA space",
                             "start", first)
        if last > _FLUSH_LIMIT:
            raise OutOfRange(f"end {last:#x} is beyond 2**52 frames", "end", last)
        flush = p2mfast_flush_t(first, 0, 0, 0, 0)
        while result:
            room = runs.room()
            free = runs.free()
            with nogil:
                result = p2mfast_cache_flush_range(self._p2m, &flush, last, leave_out, units,
                                                   free, room, &more)
            runs.added(more)
        return Flush(flush.pages, flush.next_gfn, flush.done != 0, runs.result())

    # ---- What is there ----

    def entries(self):
        """Every non-zero descriptor of every live table: a structured array (level, gfn of its
        first page, raw), sorted by level and GFN."""
        return np.concatenate([_words(self, level) for level in range(self.root_level, 4)])

    def mapped_runs(self):
        """All mappings, coalesced where GFN, MFN and type go on: a structured array (gfn, mfn, nr,
        type), ascending."""
        return _mapped_runs(self)

    def check(self):
        """Findings about the tree, as strings; an empty list when it is sound.

        Leaves and tables are counted against the statistics; no table frame may be reached twice
        or lie outside the table memory; no descriptor may have a bit that no operation sets.
        """
        cdef p2mfast_finding_t findings[64]
        cdef const uint64_t *first
        cdef uint64_t rows
        cdef uint64_t base
        cdef size_t n
        p2mfast_tables(self._p2m, &first, &rows, &base)
        cdef cnp.ndarray seen = np.empty(rows, np.uint8)
        cdef uint8_t *marks = <uint8_t *>cnp.PyArray_DATA(seen)
        with nogil:
            n = p2mfast_check(self._p2m, marks, rows, findings, 64)
        result = [
            _FINDINGS[findings[i].kind].format(level=findings[i].level, gfn=findings[i].gfn,
                                               value=findings[i].value)
            for i in range(min(n, <size_t>64))
        ]
        if n > 64:
            result.append(f"... and {n - 64} more")
        return result

    def checkpoint(self):
        """Everything in it as bytes: tables, accesses and statistics, but no waiting events."""
        return _checkpoint(self)

    @staticmethod
    def restore(checkpoint):
        """A new P2M as it was when :meth:`checkpoint` was called, in this process or another.

        Raises ValueError for bytes that are no checkpoint, or whose tree is not sound,
        MemoryError.
        """
        return _restored(checkpoint)

    def drain_events(self):
        """Take the events since the last call: a structured array (kind, gfn, nr, mfn, type).

        ``kind`` is an :class:`EventKind`: TLB_INVALIDATE with its range (4096 are kept; beyond,
        all become one of the whole space), MAPPING_REMOVED for each run of mappings of a counted
        type (foreign ones) that went.
        """
        cdef size_t waiting = p2mfast_pending_events(self._p2m)
        cdef cnp.ndarray events = np.empty(waiting, EVENT_DTYPE)
        cdef size_t n = p2mfast_drain_events(
            self._p2m, <p2mfast_event_t *>cnp.PyArray_DATA(events), waiting)
        return events[:n]


include "_capi.pxi"
