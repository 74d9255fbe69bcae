/*
 * p2mfast.hpp over the linked engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.hpp"

int main()
{
    value_tests();
    operation_tests();
    host_tests();
    walk_tests();
    return harness_finish();
}
