/*
 * The freestanding core, over a platform of the test's own (pool.c): no hosted.c, no arena.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "harness.h"

int main(void)
{
    core_map_tests();
    core_refuse_tests();
    core_scatter_tests();
    core_foreign_tests();
    core_track_tests();
    core_harvest_tests();
    core_flush_tests();
    core_mmu_tests();
    core_check_tests();
    core_random_tests();
    core_access_tests();
    return harness_finish();
}
