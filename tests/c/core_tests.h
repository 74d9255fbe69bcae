/*
 * The groups of tests that make up test_core.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_CORE_TESTS_H
#define TESTS_CORE_TESTS_H

void core_map_tests(void);
void core_refuse_tests(void);
void core_scatter_tests(void);
void core_foreign_tests(void);
void core_track_tests(void);
void core_harvest_tests(void);
void core_flush_tests(void);
void core_mmu_tests(void);
void core_check_tests(void);
void core_random_tests(void);
void core_access_tests(void);

#endif
