/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

#include <inttypes.h>
#include <stdio.h>

/* A check in a loop may fail a million times: the first few tell as much. */
#define MAX_PRINTED 10

static struct {
    const char *test;
    unsigned failures; /* of the test that runs */
    unsigned passed;
    unsigned failed;
} harness = {"(none)", 0, 0, 0};

static bool fail(const char *what, const char *file, int line)
{
    if (harness.failures++ >= MAX_PRINTED)
        return false;
    printf("%s:%d: %s: failed: %s\n", file, line, harness.test, what);
    return true;
}

bool harness_check(bool ok, const char *what, const char *file, int line)
{
    if (!ok)
        fail(what, file, line);
    return ok;
}

bool harness_check_equal(uint64_t got, uint64_t want, const char *what, const char *file, int line)
{
    if (got != want && fail(what, file, line))
        printf("    got %" PRId64 " (0x%" PRIx64 "), want %" PRId64 " (0x%" PRIx64 ")\n",
               (int64_t)got, got, (int64_t)want, want);
    return got == want;
}

void harness_run(const char *name, void (*test)(void))
{
    harness.test = name;
    harness.failures = 0;
    test();
    if (harness.failures > MAX_PRINTED)
        printf("%s: %u checks failed\n", name, harness.failures);
    if (harness.failures)
        harness.failed++;
    else
        harness.passed++;
    /* A sanitizer may end the program at the next test: what is known by then is not lost. */
    fflush(stdout);
}

int harness_finish(void)
{
    printf("%u passed, %u failed\n", harness.passed, harness.failed);
    return harness.failed != 0;
}

uint64_t harness_random(uint64_t *state)
{
    uint64_t x = *state;

    /* xorshift64* */
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * UINT64_C(2685821657736338717);
}

uint64_t harness_below(uint64_t *state, uint64_t limit)
{
    return (harness_random(state) >> 11) % limit;
}
