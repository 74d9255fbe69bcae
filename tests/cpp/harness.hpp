/* The C tests' harness. SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_CPP_HARNESS_HPP
#define TESTS_CPP_HARNESS_HPP

extern "C" {
#include "harness.h"
}
#include "p2mfast/p2mfast.hpp"

/* Results say whether they are one where they are asked to. */
#undef CHECK
#define CHECK(condition) harness_check(static_cast<bool>(condition), #condition, __FILE__, __LINE__)

/* The value of a result, or a failed check and a value of nothing. */
template <class Value> Value got(p2mfast::Result<Value> result)
{
    return CHECK(result) ? std::move(*result) : Value();
}

/* The number of an enumerator, as CHECK_EQUAL takes it. */
template <class Enum> std::uint64_t code(Enum value)
{
    return static_cast<std::uint64_t>(p2mfast::number(value));
}

void value_tests();
void operation_tests();
void host_tests();
void walk_tests();

#endif
