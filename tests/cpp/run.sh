#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the C++ tests over the engine's sources and runs them, once for each of STANDARDS (c++17
# c++20 unless told otherwise) and VARIANTS ("plain bare sanitized"; bare: without exceptions and
# RTTI). CC, CXX: the compilers.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
csrc=$here/../../csrc
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

read -ra cc <<<"${CC:-cc}"
read -ra cxx <<<"${CXX:-c++}"
warnings=(-Wall -Wextra -Wpedantic -Werror)
includes=("-I$here/../c" "-I$csrc" "-I$csrc/include")
engine_plain=(-O2)
engine_bare=(-O2)
engine_sanitized=(-fsanitize=address,undefined -fno-sanitize-recover=all -g -O1)
plain=(-O2)
bare=(-O2 -fno-exceptions -fno-rtti)
sanitized=("${engine_sanitized[@]}")

for compiler in "${cc[0]}" "${cxx[0]}"; do
    if ! command -v "$compiler" >/dev/null; then
        echo "no compiler: $compiler" >&2
        exit 1
    fi
done

failed=0
for variant in ${VARIANTS:-plain bare sanitized}; do
    declare -n engine_flags=engine_$variant flags=$variant
    mkdir -p "$build/$variant"
    (cd "$build/$variant" && "${cc[@]}" -std=c11 "${engine_flags[@]}" "${includes[@]}" -c \
        "$csrc"/*.c "$here/../c/harness.c")
    for standard in ${STANDARDS:-c++17 c++20}; do
        "${cxx[@]}" "-std=$standard" "${warnings[@]}" "${flags[@]}" "${includes[@]}" \
            "$here"/{test_cpp,values,operations,hosts,walks}.cpp "$build/$variant"/*.o -pthread \
            -o "$build/$variant/test_cpp-$standard"
        echo "== ${cxx[0]}, $standard, $variant"
        "$build/$variant/test_cpp-$standard" || failed=1
    done
done
exit $failed
