#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the C tests and runs them: run.sh [PROGRAM...], all of them unless told otherwise.
#
# CC, CFLAGS_EXTRA: the compiler, and flags for it. VARIANTS: "plain sanitized" unless told
# otherwise; "threaded" is for test_hosted and test_access, whose readers run beside a writer. CSRC:
# another engine's sources in place of this one's. AMALGAMATION: the engine as the one file that
# tools/amalgamate.py makes, with nothing but the public header beside it; test_core and test_image
# look inside the engine and cannot be built so.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
csrc=${CSRC:-$here/../../csrc}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

read -ra cc <<<"${CC:-cc}"
read -ra extra <<<"${CFLAGS_EXTRA:-}"
common=(-std=c11 -Wall -Wextra -Werror "-I$here" "-I$csrc/include")
plain=(-O2)
# gcc warns that its race detector does not understand fences: none of ours orders plain accesses.
threaded=(-fsanitize=thread -Wno-tsan -g -O1)
sanitized=(-fsanitize=address,undefined -fno-sanitize-recover=all -g -O1)

core=()
hosted=()
for source in "$csrc"/*.c; do
    case ${source##*/} in
    arena.c | checkpoint.c | events.c | hosted.c) hosted+=("$source") ;;
    *) core+=("$source") ;;
    esac
done
# The core's tests bring a platform of their own; the library's bring nothing.
engine=("${hosted[@]}" "${core[@]}")
inside=("-I$csrc")
tests=(test_core test_hosted test_access test_simulator test_image)
if [[ -n ${AMALGAMATION:-} ]]; then
    engine=("$AMALGAMATION")
    inside=(-Wpedantic)
    tests=(test_hosted test_access test_simulator)
fi
test_core=("$here"/{test_core,harness,pool,tlb}.c "$here"/core_*.c "${core[@]}")
test_hosted=("$here"/{test_hosted,harness}.c "${engine[@]}")
test_image=("$here"/test_image.c "${core[@]}")
test_simulator=("$here"/{test_simulator,harness}.c "${engine[@]}")
test_access=("$here"/{test_access,harness}.c "${engine[@]}")

if ! command -v "${cc[0]}" >/dev/null; then
    echo "no C compiler: ${cc[0]}" >&2
    exit 1
fi
programs=("$@")
if [[ $# -eq 0 ]]; then
    programs=("${tests[@]}")
fi

failed=0
for variant in ${VARIANTS:-plain sanitized}; do
    for program in "${programs[@]}"; do
        declare -n flags=$variant sources=$program
        "${cc[@]}" "${common[@]}" "${inside[@]}" "${flags[@]}" "${extra[@]}" "${sources[@]}" -pthread \
            -o "$build/$program-$variant"
        echo "== $program, $variant"
        "$build/$program-$variant" || failed=1
    done
done
exit $failed
