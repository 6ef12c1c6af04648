#!/bin/sh
# limit: 3600
# Speed and memory of training steps, one line a figure, every ratio within one run:
#   share  time inside gemm and attention's products / time of the step, worst rank
#   rate   inside gemm beside the same products as single calls of OpenBLAS on as many threads
#   memory peak of a rank (VmHWM) beside the plan that the program prints, captions filling the context
# Real pictures and captions from ../shared/data/rs-captions where they are, else procedural ones.
# Environment: COPSE_BUILD and COPSE_ROOT (make sets them); BENCH_STEPS, steps that count (default 3).
build=${COPSE_BUILD:-build}
root=${COPSE_ROOT:-$build/float}
here=$(cd "$(dirname "$0")" && pwd)
steps=${BENCH_STEPS:-3}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-bench.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
# The probe lies beside the program, so it finds plugins and Lua library as the program does.
copse=$root/copse
probe=$root/step_probe

# ---- data ---------------------------------------------------------------------------------------
shared=$(cd ../shared/data 2>/dev/null && pwd)
if [ -f "$shared/rs-captions/train.csv" ] && [ -f "$shared/clip-bpe/bpe_simple_vocab_16e6.txt.gz" ]; then
    merges=$shared/clip-bpe/bpe_simple_vocab_16e6.txt.gz
    data="--set source=$shared/rs-captions/train.csv"
    # Each caption twelve times over: longer than the context.
    awk -F, -v folder="$shared/rs-captions" '
        NR == 1 { print "file,caption" }
        NR > 1 && NR % 5 == 2 && $2 !~ /"/ && n++ < 300 {
            text = ""
            for (i = 0; i < 12; i++) text = text $2 " "
            print folder "/" $1 "," text
        }' "$shared/rs-captions/train.csv" >"$scratch/long.csv"
    full="--set source=$scratch/long.csv"
    what='real pictures and captions (rs-captions)'
else
    echo 'no ../shared/data/rs-captions: procedural pictures; for memory a context of 6, which their captions fill'
    "$copse" synth "$scratch/plants" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
    merges=$scratch/plants/tokenizer.txt
    data="--set shards=$scratch/plants/train-*.h5"
    full="$data --set context=6"
    what='procedural pictures and captions'
fi

# ---- steps --------------------------------------------------------------------------------------
# train PROGRAM RANKS THREADS SETTING...: output in $scratch/log
train() {
    program=$1 ranks=$2 threads=$3
    shift 3
    "$program" train "$here/step.lua" -n "$ranks" --threads "$threads" --fresh --run bench --runs "$scratch/runs" \
        --set "merges=$merges" "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
}

# Reads lines "probe RANK NAME VALUE".
show_step() {
    awk -v name="$1" '
        $1 == "probe" && $3 == "family" { family = $4; next }
        $1 == "probe" { v[$2, $3] = $4; ranks = $2 + 1 > ranks ? $2 + 1 : ranks }
        function verdict(value, wanted) { return sprintf("%.3f (wanted %.2f: %s)", value, wanted, value >= wanted ? "ok" : "BELOW") }
        END {
            worst = 9; worst_rate = 9; slowest = 0; samples = 0
            for (r = 0; r < ranks; r++) {
                share = v[r, "product_seconds"] / v[r, "step_seconds"]
                if (share < worst) worst = share
                rate = v[r, "gemm_flop"] / v[r, "gemm_seconds"]
                ratio = v[r, "alone_seconds"] / v[r, "gemm_seconds"]
                if (ratio < worst_rate) {
                    worst_rate = ratio
                    inside = rate; alone = v[r, "gemm_flop"] / v[r, "alone_seconds"]
                    cpu_inside = v[r, "gemm_flop"] / v[r, "gemm_cpu"]; cpu_alone = v[r, "gemm_flop"] / v[r, "alone_cpu"]
                }
                if (v[r, "step_seconds"] > slowest) slowest = v[r, "step_seconds"]
                samples += v[r, "samples"]; cpu += v[r, "step_cpu"]; loader += v[r, "loader_seconds"]; exchange += v[r, "exchange_seconds"]
            }
            printf "%s, BLAS family %s\n", name, family
            printf "    products / step, worst rank       %s\n", verdict(worst, 0.75)
            printf "    rate in gemm / OpenBLAS alone     %s  (%.0f and %.0f GFLOP/s a rank; by CPU time %.0f and %.0f a core)\n", \
                   verdict(worst_rate, 0.85), 1e-9 * inside, 1e-9 * alone, 1e-9 * cpu_inside, 1e-9 * cpu_alone
            printf "    pairs/s                           %.2f  (%.2f s a step; waiting for data %.2f s, for other ranks %.2f s; %.2f pairs a second of CPU)\n", \
                   samples / slowest, slowest / v[0, "steps"], loader / ranks / v[0, "steps"], exchange / ranks / v[0, "steps"], samples / cpu
        }' "$scratch/log"
}

# The plan and VmHWM, as the program prints them.
show_memory() {
    sed -n 's/^peak memory of a rank: \([0-9]*\) MiB of \([0-9]*\) MiB planned$/\1 \2/p' "$scratch/log" | awk -v name="$1" '
        {
            verdict = ($1 <= $2 && $1 >= 0.9 * $2) ? "ok" : "NOT"
            printf "%s: peak %d MiB of %d MiB planned, %.3f (wanted 0.900 to 1: %s)\n", name, $1, $2, $1 / $2, verdict
        }'
}

cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
echo "training steps: $what; CPU ${cpu:-unknown}; load average $(cut -d' ' -f1 /proc/loadavg)"
for setting in '1 2' '2 1'; do
    ranks=${setting% *} threads=${setting#* }
    # shellcheck disable=SC2086 # lists of options
    train "$probe" "$ranks" "$threads" $data --set preset=ViT-B-32 --set global_batch=64 --set "steps=$((steps + 1))"
    show_step "ViT-B-32, fp32, batch 64, ranks $ranks x threads $threads"
done
# shellcheck disable=SC2086
train "$probe" 2 1 $data --set preset=ViT-Micro-8 --set global_batch=128 --set "steps=$((4 * steps + 1))"
show_step 'ViT-Micro-8, fp32, batch 128, ranks 2 x threads 1'
for setting in 'ViT-B-32 64 1 2' 'ViT-B-32 64 2 1' 'ViT-Micro-8 128 1 2' 'ViT-Micro-8 128 2 1'; do
    # shellcheck disable=SC2086
    set -- $setting
    # shellcheck disable=SC2086
    train "$copse" "$3" "$4" $full --set "preset=$1" --set "global_batch=$2" --set steps=2
    show_memory "memory, $1, batch $2, ranks $3 x threads $4"
    rm -rf "$scratch/runs/bench"
done
