/*
 * The names of p2mfast.h's functions, less their p2mfast_, for tables of them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_P2MFAST_FUNCTIONS_H
#define P2MFAST_P2MFAST_FUNCTIONS_H

#include "p2mfast/p2mfast.h"

/* New functions go to the end: a smaller table is a beginning of a larger one. */
#define P2MFAST_FUNCTIONS(X)                                                                       \
    X(config_init)                                                                                 \
    X(abi_version)                                                                                 \
    X(error_words)                                                                                 \
    X(create_with_error)                                                                           \
    X(create)                                                                                      \
    X(destroy)                                                                                     \
    X(root_level)                                                                                  \
    X(root_pages)                                                                                  \
    X(ipa_bits)                                                                                    \
    X(pa_bits)                                                                                     \
    X(vmid)                                                                                        \
    X(vtcr)                                                                                        \
    X(vector_loops)                                                                                \
    X(vttbr)                                                                                       \
    X(lowest_mapped_gfn)                                                                           \
    X(max_mapped_gfn)                                                                              \
    X(get_stats)                                                                                   \
    X(tables)                                                                                      \
    X(copy_tables)                                                                                 \
    X(get_entry)                                                                                   \
    X(get_entries)                                                                                 \
    X(translate)                                                                                   \
    X(translate_many)                                                                              \
    X(translate_block)                                                                             \
    X(tlb_generation)                                                                              \
    X(syndrome)                                                                                    \
    X(regime)                                                                                      \
    X(walk_begin)                                                                                  \
    X(walk_step)                                                                                   \
    X(walk_abort)                                                                                  \
    X(set_entry)                                                                                   \
    X(set_entries)                                                                                 \
    X(remove_mapping)                                                                              \
    X(relinquish)                                                                                  \
    X(invalidate_root)                                                                             \
    X(resolve_translation_fault)                                                                   \
    X(resolve_translation_faults)                                                                  \
    X(harvest)                                                                                     \
    X(access_many)                                                                                 \
    X(max_tables)                                                                                  \
    X(set_max_tables)                                                                              \
    X(enable_mem_access)                                                                           \
    X(mem_access_enabled)                                                                          \
    X(set_mem_access)                                                                              \
    X(cache_flush_range)                                                                           \
    X(words)                                                                                       \
    X(mapped_runs)                                                                                 \
    X(next_run)                                                                                    \
    X(check)                                                                                       \
    X(drain_events)                                                                                \
    X(pending_events)                                                                              \
    X(checkpoint)                                                                                  \
    X(restore)

#endif
