#!/bin/sh
# The shards of one packing are the same bytes on 1, 2 and 3 ranks: name by name, cmp.
#     tests/ranks/pack_bytes.sh [PATH-TO-PACK_TEST]
program=${1:-${COPSE_ROOT:-build/float}/tests/ranks/pack_test}
scratch=$(mktemp -d) || exit 74
trap 'rm -rf "$scratch"' EXIT
failed=0
passed=0
for ranks in 1 2 3; do
    mkdir "$scratch/$ranks"
    if ! "$(dirname "$0")/../mpirun.sh" "$ranks" "$program" "$scratch/$ranks"; then
        echo "packing on $ranks ranks failed"
        failed=$((failed + 1))
    fi
done
for ranks in 2 3; do
    for shard in "$scratch"/1/*.h5 "$scratch/$ranks"/*.h5; do
        name=$(basename "$shard")
        if cmp "$scratch/1/$name" "$scratch/$ranks/$name"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ] && [ "$passed" -ge 40 ]
