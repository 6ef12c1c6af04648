#!/bin/sh
# Runs a test program on several ranks of this machine: tests/mpirun.sh RANKS PROGRAM [ARGUMENT...]
# Shows what rank 0 says; when the run fails, what the others say too, with "[rank r]" in front. The exit status is mpirun's.
ranks=$1
shift
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-mpirun.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
# Session files of killed runs must not pile up.
OMPI_MCA_orte_tmpdir_base=$scratch mpirun -q --tag-output --oversubscribe --bind-to none --mca btl self,vader \
    --mca mpi_yield_when_idle 1 -np "$ranks" "$@" >"$scratch/output" 2>&1 </dev/null
code=$?
sed -n 's/^\[[0-9]*,0\]<std...>://p' "$scratch/output"
if [ "$code" -ne 0 ]; then
    sed -n 's/^\[[0-9]*,\([1-9][0-9]*\)\]<std...>:/[rank \1] /p' "$scratch/output"
    grep -v '^\[[0-9]*,[0-9]*\]<std...>:' "$scratch/output"
fi
exit "$code"
