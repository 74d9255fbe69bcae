/*
 * Memory for bookkeeping: malloc's, or what the embedder gives. It knows its size by itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_HEAP_H
#define P2MFAST_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct heap {
    void *context;
    void *(*allocate)(void *context, size_t bytes); /* NULL: malloc */
    void (*release)(void *context, void *memory, size_t bytes);
};

#define HEAP_HEADER 16 /* keeps malloc's alignment */

static inline void *heap_take(const struct heap *heap, size_t bytes)
{
    size_t *block;

    if (bytes > SIZE_MAX - HEAP_HEADER)
        return NULL;
    bytes += HEAP_HEADER;
    block = heap->allocate ? heap->allocate(heap->context, bytes) : malloc(bytes);
    if (!block)
        return NULL;
    *block = bytes;
    return (char *)block + HEAP_HEADER;
}

/* NULL is allowed. */
static inline void heap_give(const struct heap *heap, void *memory)
{
    size_t *block;

    if (!memory)
        return;
    block = (size_t *)((char *)memory - HEAP_HEADER);
    if (heap->allocate)
        heap->release(heap->context, block, *block);
    else
        free(block);
}

#endif
