#!/usr/bin/env bash
# Instructions a page (or look-up) of the engine's loops, counted by callgrind: exact, and the same
# on a busy machine. Needs gcc and valgrind. Valgrind knows no AVX-512: `avx2` is the best it runs.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -std=c11 -O3 -fvisibility=hidden -fPIC -Icsrc -Icsrc/include benchmarks/instructions.c \
    csrc/*.c -o "$work/instructions" -lpthread

printf '%-16s %10s %10s\n' loop portable avx2
for loop in map map-scattered look-up look-up-singly translate scan resolve; do
    printf '%-16s' "$loop"
    for loops in portable avx2; do
        P2MFAST_VEC=$loops valgrind --tool=callgrind --callgrind-out-file=/dev/null \
            --toggle-collect=counted "$work/instructions" "$loop" 4 >"$work/units" 2>"$work/log"
        awk -v units="$(cat "$work/units")" \
            '/Collected/ { printf " %10.1f", $NF / units }' "$work/log"
    done
    echo
done
