/*
 * One loop, look up and add, in each way to reach the engine. FAILED where one was refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LOOPS_H
#define LOOPS_H

#include "p2mfast/p2mfast_capi.h"

#define FAILED UINT64_MAX

#ifdef __cplusplus
extern "C" {
#endif

uint64_t c_linked_get_entry(const p2mfast_t *p2m, const uint64_t *gfns, size_t n);
uint64_t c_linked_translate_block(const p2mfast_t *p2m, const uint64_t *ipas, size_t n);
uint64_t c_capsule_get_entry(const p2mfast_capi_t *engine, const p2mfast_t *p2m,
                             const uint64_t *gfns, size_t n);
uint64_t c_capsule_translate_block(const p2mfast_capi_t *engine, const p2mfast_t *p2m,
                                   const uint64_t *ipas, size_t n);
uint64_t cpp_linked_get_entry(p2mfast_t *p2m, const uint64_t *gfns, size_t n);
uint64_t cpp_linked_translate_block(p2mfast_t *p2m, const uint64_t *ipas, size_t n);
uint64_t cpp_capsule_get_entry(const p2mfast_capi_t *engine, p2mfast_t *p2m, const uint64_t *gfns,
                               size_t n);
uint64_t cpp_capsule_translate_block(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                     const uint64_t *ipas, size_t n);

#ifdef __cplusplus
}
#endif
#endif
