#!/bin/sh
# limit: 900
# What copse status takes for many runs: COUNT folders (default 5,000), each with the heartbeat.json of a real run and a name of
# its own, a third of them as if at work; listed three times. Aim: below 2 s. Environment: COPSE_BUILD (make sets it), COUNT.
build=${COPSE_BUILD:-build}
copse=$(cd "$build" && pwd)/copse
count=${COUNT:-5000}
tree=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-bench.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
cd "$scratch" || exit 1
{
    "$copse" synth build --classes 4 --train-per-class 32 --test-per-class 4 --seed 3 &&
        "$copse" train "$tree/jobs/quickstart.lua" --set data="$scratch/build" --set epochs=11 --threads 1
} >log 2>&1 || {
    cat log
    exit 1
}
mkdir many
at=0
sed 's/"state":"done","exit_code":0/"state":"running"/; s/"host":"[^"]*"/"host":"elsewhere"/' runs/quickstart/heartbeat.json >work.json
while [ $at -lt "$count" ]; do
    at=$((at + 1))
    mkdir "many/trial-$at"
    if [ $((at % 3)) -eq 0 ]; then record=work.json; else record=runs/quickstart/heartbeat.json; fi
    cp "$record" "many/trial-$at/heartbeat.json"
done
echo "$count runs, $(wc -c <runs/quickstart/heartbeat.json) bytes each"
for form in "" --json --csv; do
    start=$(date +%s%N)
    # shellcheck disable=SC2086
    "$copse" status many $form >out 2>&1 || {
        cat out
        exit 1
    }
    end=$(date +%s%N)
    echo "copse status $form: $(((end - start) / 1000000)) ms, $(wc -l <out) lines"
done
