# Arguments in, answers out: Python objects to C values and arrays and back, with errors that name
# the argument at fault. Included by _engine.pyx. SPDX-License-Identifier: Apache-2.0

cdef uint64_t _MFN_LIMIT = (<uint64_t>1) << 36
cdef uint64_t _FLUSH_LIMIT = (<uint64_t>1) << 52

cdef dict _DEPTHS = {"level": P2MFAST_DEPTH_LEVEL, "path": P2MFAST_DEPTH_PATH}
cdef dict _SKIPS = {"none": P2MFAST_SKIP_NONE, "leaf": P2MFAST_SKIP_LEAF,
                    "path": P2MFAST_SKIP_PATH}
cdef dict _RIGHTS = {"r": 1, "w": 2, "rw": 3, "x": 4, "rx": 5, "wx": 6, "rwx": 7}
cdef dict _MAX_ORDERS = {18: 0, 9: P2MFAST_MAX_ORDER_9, 0: P2MFAST_MAX_ORDER_0}


# ---- Scalars ----


cdef uint64_t _u64(object value, str name) except? 0xDEAD:
    cdef uint64_t number
    if PyLong_CheckExact(value):
        number = as_u64(value)
        if number != INVALID_U64 or not PyErr_Occurred():
            return number
        PyErr_Clear()
    return _u64_of_other(value, name)


cdef uint64_t _u64_of_other(object value, str name) except? 0xDEAD:
    """NumPy's integers, others that have __index__, and what is out of range."""
    if PyBool_Check(value):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if not 0 <= number < 2**64:
        raise OutOfRange(f"{name} must be from 0 to 2**64 - 1, not {number}", name, number)
    return number


cdef unsigned _member(dict choices, object value, str name) except? 0xDEAD:
    if isinstance(value, str) and value in choices:
        return choices[value]
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


cdef unsigned _enumerated(object enumeration, object value, str name) except? 0xDEAD:
    cdef uint64_t number = _u64(value, name)
    if number >= <uint64_t>len(enumeration):
        raise ValueError(f"{name} must be one of {enumeration.__name__}, not {value!r}")
    return <unsigned>number


cdef unsigned _order(object value) except? 0xDEAD:
    cdef uint64_t number = _u64(value, "order")
    if number > 18:
        raise ValueError(f"order must be from 0 to 18, not {value!r}")
    return <unsigned>number


# ---- Arrays ----


cdef cnp.ndarray _u64_array(object values, str name):
    """A contiguous uint64 array of a one-dimensional array (or sequence) of integers; the array
    itself where it is that."""
    if (cnp.PyArray_CheckExact(values) and cnp.PyArray_TYPE(values) == cnp.NPY_UINT64
            and cnp.PyArray_NDIM(values) == 1 and cnp.PyArray_ISCARRAY_RO(values)):
        return values
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.uint64)
    if array.dtype.kind not in "ui":
        raise TypeError(f"{name} must be an array of integers, not of {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        index = int(np.flatnonzero(array < 0)[0])
        raise OutOfRange(f"{name}[{index}] must not be negative: {array[index]}",
                         name, int(array[index]))
    return np.ascontiguousarray(array, dtype=np.uint64)


cdef _same_length(cnp.ndarray first, str first_name, cnp.ndarray second, str second_name):
    if first.shape[0] != second.shape[0]:
        raise ValueError(f"{second_name} must be as long as {first_name}:"
                         f" {second.shape[0]} against {first.shape[0]}")


cdef cnp.ndarray _output(object out, object dtype, size_t n):
    if out is None:
        return np.empty(n, dtype)
    if (cnp.PyArray_CheckExact(out) and cnp.PyArray_NDIM(out) == 1
            and <size_t>cnp.PyArray_DIM(out, 0) == n and cnp.PyArray_ISCARRAY(out)
            and (<cnp.ndarray>out).dtype is dtype):
        return out
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise TypeError(f"out must be an array of dtype {dtype}, not"
                        f" {out.dtype if isinstance(out, np.ndarray) else type(out).__name__}")
    if out.shape != (n,):
        raise ValueError(f"out must be of shape ({n},), not {out.shape}")
    if not out.flags.writeable or not out.flags.c_contiguous:
        raise ValueError("out must be writeable and contiguous")
    return out


cdef class _Runs:
    """A growing array of runs that the engine fills piece by piece."""

    cdef cnp.ndarray array
    cdef size_t n

    def __cinit__(self):
        self.array = np.empty(1024, RUN_DTYPE)
        self.n = 0

    cdef p2mfast_run_t *free(self):
        return (<p2mfast_run_t *>cnp.PyArray_DATA(self.array)) + self.n

    cdef size_t room(self):
        """Runs that fit; always those of one table, which the engine then takes at once."""
        if self.n + 512 > <size_t>self.array.shape[0]:
            self.array.resize(4 * self.array.shape[0], refcheck=False)
        return <size_t>self.array.shape[0] - self.n

    cdef added(self, size_t more):
        """`more` runs were written; the first may go on where the last one ended."""
        cdef p2mfast_run_t *runs = <p2mfast_run_t *>cnp.PyArray_DATA(self.array)
        cdef p2mfast_run_t *last = runs + self.n - 1
        cdef p2mfast_run_t *first = runs + self.n
        if (self.n and more and last.gfn + last.nr == first.gfn
                and last.mfn + last.nr == first.mfn):
            last.nr += first.nr
            more -= 1
            memmove(first, first + 1, more * sizeof(p2mfast_run_t))
        self.n += more

    cdef result(self):
        """The runs; the room that is left is given back."""
        self.array.resize(self.n, refcheck=False)
        return self.array


# ---- Checked against a P2M; errors name the argument at fault ----


cdef uint64_t _limit(P2M p2m):
    return (<uint64_t>1) << (p2m.ipa_bits - 12)


cdef uint64_t _gfn(P2M p2m, object value, str name="gfn") except? 0xDEAD:
    cdef uint64_t gfn = _u64(value, name)
    if gfn >= _limit(p2m):
        raise OutOfRange(f"{name} {gfn:#x} is beyond the {p2m.ipa_bits}-bit IPA space"
                         f" (frames below {_limit(p2m):#x})", name, gfn)
    return gfn


cdef uint64_t _nr(P2M p2m, object value, uint64_t gfn) except? 0xDEAD:
    cdef uint64_t nr = _u64(value, "nr")
    if nr == 0:
        raise ValueError("nr must be at least 1, not 0")
    if nr > _limit(p2m) - gfn:
        raise OutOfRange(f"nr {nr:#x} pages from gfn {gfn:#x} leave the {p2m.ipa_bits}-bit"
                         f" IPA space (frames below {_limit(p2m):#x})", "nr", nr)
    return nr


cdef uint64_t _mfn(P2M p2m, object value, uint64_t nr) except? 0xDEAD:
    cdef uint64_t mfn = _u64(value, "mfn")
    if mfn >= _MFN_LIMIT or nr > _MFN_LIMIT - mfn:
        raise OutOfRange(f"mfn {mfn:#x} + {nr:#x} pages do not fit a descriptor"
                         f" (frames below {_MFN_LIMIT:#x})", "mfn", mfn)
    return mfn


cdef _raise_gfn(P2M p2m, cnp.ndarray gfns, str name="gfns"):
    bad = np.flatnonzero(gfns >= np.uint64(_limit(p2m)))
    if bad.size:
        index = int(bad[0])
        raise OutOfRange(f"{name}[{index}] {int(gfns[index]):#x} is beyond the"
                         f" {p2m.ipa_bits}-bit IPA space (frames below"
                         f" {_limit(p2m):#x})", name, int(gfns[index]))


cdef _raise_mfn(P2M p2m, cnp.ndarray mfns):
    bad = np.flatnonzero((mfns >= np.uint64(_MFN_LIMIT)) & (mfns != np.uint64(INVALID_MFN)))
    if bad.size:
        index = int(bad[0])
        raise OutOfRange(f"mfns[{index}] {int(mfns[index]):#x} does not fit a descriptor"
                         f" (frames below {_MFN_LIMIT:#x})", "mfns", int(mfns[index]))


cdef _raise(P2M p2m, int error):
    if error == P2MFAST_ERROR_TABLES:
        tables = p2m.stats.tables
        quota = "no quota" if p2m.max_tables is None else f"max_tables {p2m.max_tables}"
        raise OutOfTables(f"the request needs more tables than are left"
                          f" ({tables} in use, {quota})")
    if error == P2MFAST_ERROR_MISMATCH:
        raise MappingMismatch("other RAM than mfn is mapped in the range; nothing was removed")
    if error == P2MFAST_ERROR_CORRUPT:
        raise P2MError("a table pointer leads outside the table memory: check() tells where")
    if error == P2MFAST_ERROR_MEMORY:
        raise MemoryError("no memory for the engine's bookkeeping")
    if error == P2MFAST_ERROR_RANGE:
        raise OutOfRange("an array changed while it was being read")
    raise ValueError("an array changed while it was being read")


cdef unsigned _leaf(object type, object access, object armed, object max_order,
                    unsigned *kind, unsigned *rights) except? 0xDEAD:
    kind[0] = _enumerated(P2MType, type, "type")
    rights[0] = _enumerated(Access, access, "access")
    if max_order not in _MAX_ORDERS:
        raise ValueError(f"max_order must be 0, 9 or 18, not {max_order!r}")
    return (P2MFAST_ARMED if armed else 0) | <unsigned>_MAX_ORDERS[max_order]


cdef _stage2_fault(P2M p2m, uint64_t ipa, object access, unsigned rights,
                   const p2mfast_translation_t *result):
    """The exception; of an access that reads and writes, the write faults where a read would not
    (Arm ARM D19.2, ESR_EL2.ISS.WnR)."""
    cdef p2mfast_translation_t read
    cdef bint write = rights & 2
    if write and rights & 1:
        p2mfast_translate(p2m._p2m, ipa, 1, &read)
        write = read.fault == 0
    return Stage2Fault(ipa, result.level, FaultKind(result.fault), access, bool(write))


cdef cnp.ndarray _words(P2M p2m, int level):
    cdef size_t n = 0
    cdef size_t found = 1
    cdef cnp.ndarray words = np.empty(0, WORD_DTYPE)
    cdef p2mfast_word_t *target
    while found > n:
        n = found
        words = np.empty(n, WORD_DTYPE)
        target = <p2mfast_word_t *>cnp.PyArray_DATA(words)
        with nogil:
            found = p2mfast_words(p2m._p2m, level, target, n)
    return words[:found]


cdef cnp.ndarray _mapped_runs(P2M p2m):
    cdef size_t n = 0
    cdef size_t found = 64
    cdef cnp.ndarray runs = np.empty(0, MAPPED_RUN_DTYPE)
    cdef p2mfast_mapped_run_t *target
    while found > n:
        n = found
        runs = np.empty(n, MAPPED_RUN_DTYPE)
        target = <p2mfast_mapped_run_t *>cnp.PyArray_DATA(runs)
        with nogil:
            found = p2mfast_mapped_runs(p2m._p2m, target, n)
    return runs[:found].copy()


cdef cnp.ndarray _copied_tables(P2M p2m):
    cdef uint64_t found = len(p2m.tables)
    cdef uint64_t rows = 0
    cdef cnp.ndarray copy = np.empty((0, 512), np.uint64)
    cdef uint64_t *target
    while found > rows:
        rows = found
        copy = np.empty((rows, 512), np.uint64)
        target = <uint64_t *>cnp.PyArray_DATA(copy)
        with nogil:
            found = p2mfast_copy_tables(p2m._p2m, target, rows)
    return copy


cdef bytes _checkpoint(P2M p2m):
    cdef size_t need = p2mfast_checkpoint(p2m._p2m, NULL, 0)
    cdef size_t size = 0
    cdef bytes result = b""
    cdef char *buffer
    while need > size:  # it may grow between two calls
        size = need
        result = PyBytes_FromStringAndSize(NULL, size)
        buffer = PyBytes_AS_STRING(result)
        with nogil:
            need = p2mfast_checkpoint(p2m._p2m, buffer, size)
    return result if need == size else result[:need]


cdef object _restored(object checkpoint):
    cdef const unsigned char[::1] data = memoryview(checkpoint).cast("B")
    cdef int error = 0
    cdef p2mfast_t *handle = NULL
    if data.shape[0]:
        handle = p2mfast_restore(&data[0], data.shape[0], NULL, &error)
    if handle == NULL and error == P2MFAST_ERROR_MEMORY:
        raise MemoryError("no memory for the tables of the checkpoint")
    if handle == NULL:
        raise ValueError(f"checkpoint: {data.shape[0]} bytes that are no P2M's checkpoint, or of one"
                         " whose tree is not sound")
    return _adopt(handle)


cdef p2mfast_t *_created(p2mfast_config_t *config, object ipa_bits, object vmid, object pa_bits,
                         object max_tables, object table_base_mfn) except NULL:
    """A P2M's handle; `config` gets what was asked for."""
    cdef p2mfast_t *handle = NULL
    cdef int error = P2MFAST_ERROR_TABLE_BASE
    cdef uint64_t ipa = _u64(ipa_bits, "ipa_bits")
    cdef uint64_t pa = _u64(pa_bits, "pa_bits")
    cdef uint64_t identifier = _u64(vmid, "vmid")
    if identifier > 0xFFFF:
        raise ValueError(f"vmid must be from 0 to 65535, not {vmid!r}")
    config.ipa_bits = <unsigned>ipa if ipa < 256 else 0  # 0: refused
    config.pa_bits = <unsigned>pa if pa < 256 else 0
    config.vmid = <unsigned>identifier
    if max_tables is not None:
        config.max_tables = _u64(max_tables, "max_tables")
    if table_base_mfn is not None:
        config.table_base_mfn = _u64(table_base_mfn, "table_base_mfn")
    if table_base_mfn is None or config.table_base_mfn != P2MFAST_INVALID_MFN:
        handle = p2mfast_create_with_error(config, &error)
    if error == P2MFAST_ERROR_IPA_BITS:
        raise ValueError(f"ipa_bits must be one of 32, 36, 40, 42, 44, 48, not {ipa_bits!r}")
    if error == P2MFAST_ERROR_PA_BITS:
        raise ValueError(f"pa_bits must be one of 32, 36, 40, 42, 44, 48, not {pa_bits!r}")
    if error == P2MFAST_ERROR_TABLE_BASE:
        raise ValueError(f"table_base_mfn {table_base_mfn!r}: the root tables must lie inside"
                         f" pa_bits ({pa_bits}) and be aligned to their number")
    if error:
        raise MemoryError("the address range for the tables cannot be reserved")
    return handle


# ---- Findings ----

cdef dict _FINDINGS = {
    1: "stats.mappings[{level}] does not agree with the {value} leaves of that level",
    2: "stats.tables does not agree with the {value} tables that are reached",
    3: "table frame {value:#x} is reached twice (level {level}, gfn {gfn:#x})",
    4: "table frame {value:#x} lies outside the table memory (level {level}, gfn {gfn:#x})",
    5: "descriptor {value:#018x} has reserved bits (level {level}, gfn {gfn:#x})",
    6: "block {value:#018x} is not aligned to its size (level {level}, gfn {gfn:#x})",
    7: "leaf outside lowest_mapped_gfn..max_mapped_gfn (level {level}, gfn {gfn:#x})",
    8: "descriptor {value:#018x} beyond the IPA space (level {level}, gfn {gfn:#x})",
    9: "the count of counted mappings does not agree with the {value} that are there",
}
