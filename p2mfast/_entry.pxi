# Entry: one look-up's answer, kept as the engine's struct until a field is asked for. A named tuple
# would cost more than the look-up. Included by _engine.pyx. SPDX-License-Identifier: Apache-2.0

cdef tuple _TYPES = tuple(P2MType)
cdef tuple _ACCESSES = tuple(Access)


cdef uint8_t _below(object value, unsigned limit, str name) except? 0xDE:
    cdef uint64_t number = _u64(value, name)
    if number >= limit:
        raise ValueError(f"{name} must be below {limit}, not {value!r}")
    return <uint8_t>number


@cython.final
@cython.freelist(64)
cdef class Entry:
    """What a GFN is mapped to.

    ``valid`` is bit 0 of the leaf's own descriptor; ``reachable`` says that bit 0 of every
    descriptor on the way is set as well, so that the guest gets there without a fault. ``order`` is
    log2 of the pages of the block that maps it. In a hole ``mfn`` and ``access`` are ``None`` and
    ``order`` is the hole's. Immutable; unpacks and compares like a tuple of its fields.
    """

    __match_args__ = ("mfn", "type", "order", "valid", "reachable", "access")

    cdef p2mfast_entry_t _entry

    def __init__(self, mfn, type, order, valid, reachable, access):
        self._entry.mfn = P2MFAST_INVALID_MFN if mfn is None else _u64(mfn, "mfn")
        self._entry.type = _below(type, 16, "type")
        self._entry.order = _below(order, 64, "order")
        self._entry.valid = bool(valid)
        self._entry.reachable = bool(reachable)
        self._entry.access = (P2MFAST_NO_ACCESS if access is None
                              else _below(access, len(_ACCESSES), "access"))

    @property
    def mfn(self):
        """Machine frame of this very GFN; None: nothing is mapped."""
        return None if self._entry.mfn == P2MFAST_INVALID_MFN else self._entry.mfn

    @property
    def type(self):
        """A :class:`P2MType` (an int where another tree's descriptor has a type beyond them)."""
        return _TYPES[self._entry.type] if self._entry.type < 12 else self._entry.type

    @property
    def order(self):
        """log2 pages of the mapping, or of the hole."""
        return self._entry.order

    @property
    def valid(self):
        """Bit 0 of the leaf's own descriptor."""
        return self._entry.valid != 0

    @property
    def reachable(self):
        """Bit 0 of every descriptor on the way, the leaf's included."""
        return self._entry.reachable != 0

    @property
    def access(self):
        """An :class:`Access`; None: nothing is mapped."""
        if self._entry.access == P2MFAST_NO_ACCESS:
            return None
        return _ACCESSES[self._entry.access]

    cdef tuple _fields(self):
        return (self.mfn, self.type, self.order, self.valid, self.reachable, self.access)

    def __iter__(self):
        return iter(self._fields())

    def __eq__(self, other):
        if isinstance(other, Entry):
            return self._fields() == (<Entry>other)._fields()
        return self._fields() == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self):
        return hash(self._fields())

    def __repr__(self):
        pairs = zip(self.__match_args__, self._fields(), strict=True)
        return f"Entry({', '.join([f'{name}={value!r}' for name, value in pairs])})"

    def __reduce__(self):
        return Entry, self._fields()
