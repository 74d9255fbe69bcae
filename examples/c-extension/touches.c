/*
 * A Python extension module that works on the P2Ms of the installed p2mfast: touches.count(p2m,
 * gfn, nr) counts the pages of a range that the guest may have touched. It links nothing of ours:
 * the functions come from a capsule.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <p2mfast/p2mfast_capi.h>

static const p2mfast_capi_t *p2mfast;

static PyObject *count(PyObject *module, PyObject *arguments)
{
    PyObject *object;
    p2mfast_t *p2m;
    unsigned long long gfn;
    unsigned long long nr;
    unsigned long long reachable = 0;
    int error = 0;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "OKK", &object, &gfn, &nr))
        return NULL;
    p2m = p2mfast->from_object(object); /* a TypeError for anything else */
    if (!p2m)
        return NULL;
    /* `arguments` holds the object meanwhile; look-ups need no GIL. */
    Py_BEGIN_ALLOW_THREADS;
    for (uint64_t at = gfn; at - gfn < nr && !error; at++) {
        p2mfast_entry_t entry;

        error = p2mfast->get_entry(p2m, at, &entry);
        reachable += !error && entry.reachable;
    }
    Py_END_ALLOW_THREADS;
    if (error) {
        PyErr_SetString(PyExc_ValueError, p2mfast->error_words(error));
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(reachable);
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS, "count(p2m, gfn, nr): how many of these pages are reachable."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "touches", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_touches(void)
{
    /* Fails in words where the installed p2mfast is of another ABI version. */
    p2mfast = p2mfast_import();
    return p2mfast ? PyModule_Create(&module) : NULL;
}
