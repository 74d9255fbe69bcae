# cython: language_level=3
# SPDX-License-Identifier: Apache-2.0
"""Unicorn's UC_HOOK_TLB_FILL, answered by the engine in C.

Nothing of Unicorn is linked: the hook is a function pointer with a word of data, which
p2mfast.adapters.unicorn registers. The engine comes by its capsule, as for any other extension.
"""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t

from p2mfast.errors import Stage2Fault
from p2mfast.types import FaultKind

cdef extern from *:
    """
    #include <stdbool.h>

    /* Of Unicorn's API (unicorn.h), as far as this hook sees it; rights are R 1, W 2, X 4. */
    typedef struct {
        uint64_t paddr;
        uint32_t perms;
    } uc_tlb_entry;

    enum { UC_MEM_READ = 16, UC_MEM_WRITE = 17, UC_MEM_FETCH = 18 };
    """
    ctypedef bint c_bool "bool"
    ctypedef struct uc_tlb_entry:
        uint64_t paddr
        uint32_t perms
    enum:
        UC_MEM_READ
        UC_MEM_FETCH

cdef extern from "p2mfast/p2mfast_capi.h":
    ctypedef struct p2mfast_t
    ctypedef struct p2mfast_tlb_entry_t:
        uint64_t ipa
        uint64_t pa
        uint64_t size
        unsigned char rights
        signed char level
        unsigned char fault
    ctypedef struct p2mfast_capi_t:
        p2mfast_t *(*from_object)(object p2m) except NULL
        int (*translate_block)(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                               p2mfast_tlb_entry_t *entry) noexcept nogil
        int (*resolve_translation_fault)(p2mfast_t *p2m, uint64_t gfn, unsigned depth,
                                         unsigned order) noexcept nogil
        uint64_t (*tlb_generation)(const p2mfast_t *p2m) noexcept nogil
    const p2mfast_capi_t *p2mfast_import() except NULL
    enum:
        P2MFAST_FAULT_TRANSLATION
        P2MFAST_DEPTH_LEVEL
        P2MFAST_DEPTH_PATH

cdef const p2mfast_capi_t *engine = p2mfast_import()

cdef enum:
    PAGE_SHIFT = 12
    FETCH = 4  # of the engine's accesses

_LETTERS = {1: "r", 2: "w", 4: "x"}

# What the hook works on: no Python object, for it runs without the GIL.
ctypedef struct state_t:
    p2mfast_t *p2m
    void *owner  # the Fill that this is in
    bint resolve
    bint asks
    unsigned depth
    unsigned order
    # The block that the last fill came from, good until the P2M invalidates: as in a TLB.
    p2mfast_tlb_entry_t block
    uint64_t generation
    uint64_t fills
    uint64_t resolved
    uint64_t faults
    # The last fault: where, of which access; 0 is none.
    uint64_t ipa
    unsigned access
    unsigned kind
    int level
    # As a run ends Unicorn fetches from the page before its end address, or that of the address.
    # It is no access of the guest, which the program counter tells.
    int (*read_register)(void *uc, int register, void *value) noexcept nogil
    int pc_register
    uint64_t end
    uint64_t code_pa  # where code was fetched last
    bint answered_end


cdef c_bool _fill(void *uc, uint64_t address, int type, uc_tlb_entry *result,
                  void *data) noexcept nogil:
    cdef state_t *state = <state_t *>data
    cdef p2mfast_tlb_entry_t *block = &state.block
    cdef unsigned access = 1u << (type - UC_MEM_READ)
    cdef uint64_t generation = engine.tlb_generation(state.p2m)
    state.fills += 1
    if (
        generation != state.generation
        or address - block.ipa >= block.size
        or not block.rights & access
    ):
        # Before the walk: what is invalidated during it is stale for the next fill.
        state.generation = generation
        if type == UC_MEM_FETCH and _is_end(uc, state, address):
            result.paddr = state.code_pa
            result.perms = access
            state.answered_end = True
            return True
        if not _walk(state, address, access):
            block.size = 0
            return False
    result.paddr = block.pa + (address - block.ipa)
    result.perms = block.rights
    if type == UC_MEM_FETCH:
        state.code_pa = result.paddr
    return True


cdef bint _in_end_page(state_t *state, uint64_t address) noexcept nogil:
    cdef uint64_t page = address >> PAGE_SHIFT
    return page == (state.end - 1) >> PAGE_SHIFT or page == state.end >> PAGE_SHIFT


cdef bint _is_end(void *uc, state_t *state, uint64_t address) noexcept nogil:
    """Whether Unicorn looks up the end of the run, where the guest is not."""
    cdef uint64_t page = address >> PAGE_SHIFT
    cdef uint64_t pc = 0
    if not _in_end_page(state, address):
        return False
    state.read_register(uc, state.pc_register, &pc)
    pc >>= PAGE_SHIFT
    # A T32 instruction may begin in the page before.
    return pc != page and pc + 1 != page


cdef bint _walk(state_t *state, uint64_t address, unsigned access) noexcept nogil:
    """Whether state.block is what maps the address, and permits the access."""
    cdef p2mfast_tlb_entry_t *block = &state.block
    cdef bint asked = False
    while True:
        engine.translate_block(state.p2m, address, access, block)
        if not block.fault:
            if asked:  # it has been dealt with
                state.kind = 0
            return True
        if (
            block.fault == P2MFAST_FAULT_TRANSLATION
            and state.resolve
            and engine.resolve_translation_fault(
                state.p2m, address >> 12, state.depth, state.order
            ) > 0
        ):
            state.resolved += 1
            continue
        # One that a fault has ended looks its end up, too.
        if asked or (state.kind and access == FETCH and _in_end_page(state, address)):
            return False
        state.faults += 1
        state.ipa, state.access = address, access
        state.kind, state.level = block.fault, block.level
        if not state.asks or not _ask(state.owner):
            return False
        asked = True


cdef bint _ask(void *owner) noexcept with gil:
    cdef Fill fill = <Fill>owner
    try:
        return bool(fill.on_fault(fill.fault))
    except BaseException as error:
        # Unicorn, which called, knows no exceptions; the first one is what went wrong.
        if fill.error is None:
            fill.error = error
    return False


cdef c_bool _identity(void *uc, uint64_t address, int type, uc_tlb_entry *result,
                      void *data) noexcept nogil:
    result.paddr = address
    result.perms = 7
    return True


IDENTITY = <uintptr_t>&_identity
"""Address of a hook that maps every address to itself: what a fill costs that looks nothing up."""


cdef class Fill:
    """The hook's data: a P2M, how it is to be asked, and what came of it.

    ``p2m`` must be a P2M (TypeError). ``resolve``: armed entries are made reachable, as
    ``P2M.resolve_translation_fault`` does with ``depth`` ("path" or "level") and ``order``.
    ``on_fault`` is called for what is a fault then, with a Stage2Fault, and returns whether to try
    again; what it raises is kept in ``error``. ``read_register`` is the address of uc_reg_read,
    ``pc_register`` Unicorn's number of the program counter. The object must live as long as the
    hook.
    """

    cdef state_t _state
    cdef readonly object p2m
    cdef readonly object on_fault
    cdef public object error

    def __init__(self, p2m, *, bint resolve, depth, unsigned order, on_fault,
                 uintptr_t read_register, int pc_register):
        self._state.p2m = engine.from_object(p2m)
        self._state.owner = <void *>self
        self._state.resolve = resolve
        self._state.asks = on_fault is not None
        self._state.depth = P2MFAST_DEPTH_PATH if depth == "path" else P2MFAST_DEPTH_LEVEL
        self._state.order = order
        self._state.read_register = (
            <int (*)(void *, int, void *) noexcept nogil>read_register
        )
        self._state.pc_register = pc_register
        self.p2m = p2m
        self.on_fault = on_fault

    @property
    def callback(self):
        """Address of the hook's function."""
        return <uintptr_t>&_fill

    @property
    def data(self):
        """Address of its data."""
        return <uintptr_t>&self._state

    @property
    def fills(self):
        """Times that it was called."""
        return self._state.fills

    @property
    def resolved(self):
        """Translation faults that were resolved."""
        return self._state.resolved

    @property
    def faults(self):
        """Faults that were left, those that ``on_fault`` has dealt with included."""
        return self._state.faults

    @property
    def fault(self):
        """The last fault that nobody has dealt with, or None."""
        if not self._state.kind:
            return None
        letter = _LETTERS[self._state.access]
        return Stage2Fault(
            self._state.ipa, self._state.level, FaultKind(self._state.kind), letter, letter == "w"
        )

    def begin(self, uint64_t end):
        """A run to this address begins: no fault, nothing kept. Returns whether Unicorn's TLB holds
        an answer that was for the end of the last run, and is no translation."""
        stale, self._state.answered_end = self._state.answered_end, False
        self._state.kind = 0
        self._state.end = end
        self.error = None
        return bool(stale)
