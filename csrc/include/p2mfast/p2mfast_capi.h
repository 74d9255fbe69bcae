/*
 * The engine inside Python: for C and C++ extension modules that are to work on the P2Ms of the
 * installed package, at C speed and without linking anything.
 *
 *     static const p2mfast_capi_t *p2mfast;
 *     ...
 *     p2mfast = p2mfast_import();                       // in the module's init; NULL: error set
 *     p2mfast_t *p2m = p2mfast->from_object(object);    // borrowed from a p2mfast.P2M
 *     p2mfast->get_entry(p2m, gfn, &entry);             // every function of p2mfast.h
 *
 * The GIL is needed for p2mfast_import, from_object and adopt, and for nothing else.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_P2MFAST_CAPI_H
#define P2MFAST_P2MFAST_CAPI_H

#include <Python.h>
#include "p2mfast/p2mfast_functions.h"

#ifdef __cplusplus
extern "C" {
#define P2MFAST_TYPE_OF(function) decltype(function)
#else
#define P2MFAST_TYPE_OF(function) __typeof__(function)
#endif

#define P2MFAST_CAPSULE "p2mfast._engine._C_API"

typedef struct p2mfast_capi {
    uint32_t version; /* P2MFAST_ABI_VERSION */
    uint32_t size;    /* sizeof(p2mfast_capi_t) */
    /* The handle in a p2mfast.P2M, borrowed: it lives as long as the object. NULL: TypeError. */
    p2mfast_t *(*from_object)(PyObject *object);
    /* A new p2mfast.P2M that owns this handle and destroys it. NULL: an error is set, and the
     * handle is still the caller's. */
    PyObject *(*adopt)(p2mfast_t *p2m);
#define P2MFAST_CAPI_FIELD(name) P2MFAST_TYPE_OF(p2mfast_##name) * name;
    P2MFAST_FUNCTIONS(P2MFAST_CAPI_FIELD)
#undef P2MFAST_CAPI_FIELD
} p2mfast_capi_t;

/* The installed engine. NULL, and ImportError set, where there is none, or one of another ABI. */
static inline const p2mfast_capi_t *p2mfast_import(void)
{
    const p2mfast_capi_t *capi = (const p2mfast_capi_t *)PyCapsule_Import(P2MFAST_CAPSULE, 0);

    if (!capi)
        return NULL;
    if (capi->version == P2MFAST_ABI_VERSION && capi->size >= sizeof(*capi))
        return capi;
    PyErr_Format(PyExc_ImportError,
                 "this module was compiled for p2mfast's ABI version %u with %u bytes of functions,"
                 " the installed p2mfast has version %u with %u: compile it again",
                 P2MFAST_ABI_VERSION, (unsigned)sizeof(*capi), (unsigned)capi->version,
                 (unsigned)capi->size);
    return NULL;
}

#ifdef __cplusplus
}
#endif
#endif
