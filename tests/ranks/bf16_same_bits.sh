#!/bin/sh
# limit: 600
# Training with precision = "bf16": the same bytes on 1, 2 and 3 ranks, any threads, and after a resume; near to fp32, and not
# equal to it; ranks and checkpoints with other kernels are refused. Skips where the CPU or the library is missing.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
cd "$scratch" || exit 1
fault_set
last=checkpoints/step-00000006.h5
fault_job plain
fault_job half 'precision = "bf16",'
fault_job auto 'precision = "auto",'

run copse train half.lua --runs one --threads 1
if grep -q 'precision "bf16"' "$output"; then
    skip "training in bf16" "$(grep -m 1 'precision "bf16"' "$output")"
    expect "auto is fp32 here, and says why" 0 'precision "auto" is fp32 here' copse train auto.lua
    finish
fi
judge "one rank, one thread" 0 'half: 6 steps'
check "the kernels are on record" grep -q '"bf16 (A' one/half/provenance.json
for at in "1 3" "2 1" "3 2"; do
    set -- $at
    check "$1 ranks with $2 threads" copse train half.lua --runs "at$1" --threads "$2" -n "$1"
    check "give the same bytes" cmp one/half/$last "at$1/half/$last"
done
check "two steps" copse train half.lua --runs resumed --until 2 -n 2 --threads 1
check "and four more on three ranks" copse train half.lua --runs resumed -n 3 --threads 1
check "give the same bytes" cmp one/half/$last resumed/half/$last

check "auto trains" copse train auto.lua --runs one
check "and is bf16 here" grep -q '"bf16 (A' one/auto/provenance.json

check "fp32 trains" copse train plain.lua --runs one
losses() { # losses NAME: one a line
    grep -o '"loss":[0-9.]*' "one/$1/events.jsonl" | cut -d: -f2
}
losses half >half.losses
losses plain >plain.losses
near() { # 0 < largest difference < 2 % of the loss, over all six steps
    paste half.losses plain.losses | awk '
        { d = ($1 - $2) / $2; if (d < 0) d = -d; if (d > most) most = d }
        END { print NR " steps, largest difference " most; exit !(NR == 6 && most > 0 && most < 0.02) }'
}
check "its losses are near, and not the same" near

# The other family can be forced where the CPU has AMX.
if grep -q '"bf16 (AMX' one/half/provenance.json; then
    check "two steps in AMX" copse train half.lua --runs other --until 2
    expect_one "AVX512-BF16 does not go on with them" any 'precision.*AMX.*AVX512-BF16|precision.*AVX512-BF16.*AMX' \
        env ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$COPSE" train half.lua --runs other
    expect_one "ranks with different kernels" any 'precision.*AMX.*AVX512-BF16|precision.*AVX512-BF16.*AMX' \
        mpirun --oversubscribe --bind-to none --mca btl self,vader -np 1 "$COPSE" train half.lua --runs mixed : \
        -np 1 env ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$COPSE" train half.lua --runs mixed
else
    skip "kernels of two families" "this CPU has one"
fi
expect_one "a CPU without bf16 kernels" 69 'bf16.*use precision = "fp32"' env ONEDNN_MAX_CPU_ISA=AVX2 "$COPSE" train half.lua --runs none
expect "where auto is fp32, and says why" 0 'precision "auto" is fp32 here' \
    env ONEDNN_MAX_CPU_ISA=AVX2 "$COPSE" train auto.lua --runs none
finish
