# The capsule through which extension modules reach the engine (include/p2mfast/p2mfast_capi.h).
# Included by _engine.pyx. SPDX-License-Identifier: Apache-2.0

cdef extern from *:
    """
    #include "p2mfast/p2mfast_capi.h"

    #define ENTRY(name) p2mfast_##name,
    static p2mfast_capi_t capi = {P2MFAST_ABI_VERSION, sizeof(p2mfast_capi_t), NULL, NULL,
                                  P2MFAST_FUNCTIONS(ENTRY)};
    #undef ENTRY
    """
    ctypedef struct p2mfast_capi_t:
        p2mfast_t *(*from_object)(object p2m) except NULL
        object (*adopt)(p2mfast_t *p2m)

    p2mfast_capi_t capi
    const char *P2MFAST_CAPSULE


cdef p2mfast_t *_handle(object p2m) except NULL:
    if not isinstance(p2m, P2M):
        raise TypeError(f"a p2mfast.P2M is needed, not {p2m!r}")
    return (<P2M>p2m)._p2m


cdef object _adopt(p2mfast_t *handle):
    """A P2M around a handle, which it owns from now on."""
    cdef P2M p2m = P2M.__new__(P2M, _ADOPTED)
    p2m._p2m = handle
    p2m.ipa_bits = p2mfast_ipa_bits(handle)
    p2m.pa_bits = p2mfast_pa_bits(handle)
    p2m.vmid = p2mfast_vmid(handle)
    return p2m


capi.from_object = _handle
capi.adopt = _adopt
_C_API = PyCapsule_New(&capi, P2MFAST_CAPSULE, NULL)
