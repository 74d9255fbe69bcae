/*
 * The functions that a compiler may call by itself (and the engine's only needs).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int value, size_t n);
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* Words as far as both ends allow: RAM is touched before the MMU is on, when nothing may be
 * misaligned. */
void *memset(void *to, int value, size_t n)
{
    uint64_t word = (uint8_t)value * UINT64_C(0x0101010101010101);
    unsigned char *at = to;

    for (; n && (uintptr_t)at % sizeof(word); n--)
        *at++ = (unsigned char)value;
    for (; n >= sizeof(word); n -= sizeof(word), at += sizeof(word))
        *(uint64_t *)at = word;
    while (n--)
        *at++ = (unsigned char)value;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    unsigned char *at = to;
    const unsigned char *source = from;

    if (((uintptr_t)to | (uintptr_t)from) % sizeof(uint64_t) == 0)
        for (; n >= sizeof(uint64_t); n -= sizeof(uint64_t)) {
            *(uint64_t *)at = *(const uint64_t *)source;
            at += sizeof(uint64_t);
            source += sizeof(uint64_t);
        }
    while (n--)
        *at++ = *source++;
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    unsigned char *at = to;
    const unsigned char *source = from;

    if ((uintptr_t)to <= (uintptr_t)from)
        return memcpy(to, from, n);
    while (n--)
        at[n] = source[n];
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *left = a, *right = b;

    for (size_t i = 0; i < n; i++)
        if (left[i] != right[i])
            return left[i] - right[i];
    return 0;
}
