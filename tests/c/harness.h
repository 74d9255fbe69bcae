/*
 * The smallest test harness that does: checks that print where they failed, tests that are counted.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A condition. */
#define CHECK(condition) harness_check((condition), #condition, __FILE__, __LINE__)
/* Two numbers; both are printed where they differ. */
#define CHECK_EQUAL(got, want)                                                                     \
    harness_check_equal((uint64_t)(got), (uint64_t)(want), #got " == " #want, __FILE__, __LINE__)
/* Run a test; it has passed if no check failed meanwhile. */
#define RUN(test) harness_run(#test, test)

bool harness_check(bool ok, const char *what, const char *file, int line);
bool harness_check_equal(uint64_t got, uint64_t want, const char *what, const char *file, int line);
void harness_run(const char *name, void (*test)(void));
/* Prints how many tests passed and failed; the program's exit status. */
int harness_finish(void);

/* Pseudo-random numbers, the same in every run. */
uint64_t harness_random(uint64_t *state);
uint64_t harness_below(uint64_t *state, uint64_t limit);

#endif
