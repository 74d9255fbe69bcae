#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The core is freestanding: every file of csrc/ but the hosted platform compiles for an Arm
# hypervisor (and for x86-64), and all of them linked into one object need nothing from outside
# but what a compiler may call by itself.
#
# TARGETS: "x86-64 aarch64" unless told otherwise. CC, CROSS_CC: the compilers of the two. CSRC:
# another engine's sources in place of this one's.
set -euo pipefail

cc=${CC:-cc}
cross_cc=${CROSS_CC:-aarch64-linux-gnu-gcc}
targets=${TARGETS:-x86-64 aarch64}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
csrc=${CSRC:-$here/../../csrc}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

flags=(-std=c11 -O2 -ffreestanding -nostdlib -Wall -Wextra -Werror -fno-stack-protector
    "-I$csrc" "-I$csrc/include")
hosted=" arena.c checkpoint.c events.c hosted.c "
allowed='^(memcpy|memset|memmove|memcmp)$'

# check TARGET COMPILER [FLAG...]
check() {
    local target=$1 compiler source object objects=() linked=$build/$1.o undefined
    read -ra compiler <<<"$2"
    shift 2

    if ! command -v "${compiler[0]}" >/dev/null; then
        echo "$target: no compiler: ${compiler[0]}" >&2
        exit 1
    fi
    for source in "$csrc"/*.c; do
        if [[ $hosted == *" ${source##*/} "* ]]; then
            continue
        fi
        object=$build/$target-$(basename "$source" .c).o
        "${compiler[@]}" "${flags[@]}" "$@" -c "$source" -o "$object"
        objects+=("$object")
    done
    # The linker and nm that belong to the compiler: the machine's own know their target only.
    "$("${compiler[@]}" -print-prog-name=ld)" -r -o "$linked" "${objects[@]}"
    undefined=$("$("${compiler[@]}" -print-prog-name=nm)" -u "$linked" |
        awk '{ print $NF }' | sort -u)
    if grep -Evq "$allowed" <<<"${undefined:-memcpy}"; then
        echo "$target: the core is not freestanding, it needs:" >&2
        grep -Ev "$allowed" <<<"$undefined" >&2
        exit 1
    fi
    echo "$target: ${#objects[@]} files freestanding with ${compiler[*]}${*:+ $*}," \
        "undefined: $(tr '\n' ' ' <<<"${undefined:-nothing}")"
}

for target in $targets; do
    case $target in
    x86-64)
        check "$target" "$cc"
        ;;
    aarch64)
        check "$target" "$cross_cc" -mgeneral-regs-only -mstrict-align -mno-outline-atomics
        ;;
    *)
        echo "unknown target: $target (there are x86-64 and aarch64)" >&2
        exit 2
        ;;
    esac
done
