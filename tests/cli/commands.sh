#!/bin/sh
# Commands and options as a newcomer tries them: every --help, unknown names, missing and wrong values, exit codes.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1

built='train check eval predict embed pack verify inspect synth import export objectives status submit cancel doctor compare report'
later='bench plan'
for command in $built; do
    expect "$command --help" 0 "^copse $command .*Options:.*--help" copse "$command" --help
    expect "help $command" 0 "^copse $command .*Options:" copse help "$command"
    expect_one "$command: unknown option" 64 "unknown option '--hepl' .did you mean '--help'" copse "$command" --hepl
done
expect "tokenizer train --help" 0 '^copse tokenizer train .*--vocabulary' copse tokenizer train --help
for command in train check eval embed pack verify inspect synth import export; do
    expect_one "$command without arguments" 64 "copse $command: something is missing" copse "$command"
done
for command in $later; do
    expect_one "$command is not built yet" 69 "'copse $command' is not built in this version" copse "$command"
done

expect "no command" 64 'copse COMMAND.*train.*pack.*Exit codes' copse
expect "help" 0 'copse COMMAND.*train.*pack.*Exit codes' copse help
expect "--version" 0 '^copse [0-9]+\.[0-9]+\.[0-9]+ \((float|double)\)' copse --version
expect_one "unknown command" 64 "'trian' is no command of copse .did you mean 'train'" copse trian job.lua
expect_one "unknown command, nothing near" 64 "'xyzzy' is no command of copse; 'copse help' lists" copse xyzzy
expect_one "half a command" 64 "'copse tokenizer' is no command; there is 'copse tokenizer train'" copse tokenizer
expect_one "a second word that is none" 64 "'copse sweep pln' is no command; there is 'copse sweep plan', 'copse sweep run'" copse sweep pln x
expect_one "help of nothing" 64 "'xyzzy' is no command" copse help xyzzy
expect_one "one argument too many" 64 "'b.lua' is one argument too many: copse train JOB" copse train a.lua b.lua
expect_one "a setting without its option" 64 "'b=2' is one argument too many.*--set in front of each" copse train a.lua --set a=1 b=2
expect_one "value missing" 64 "'--threads' needs a value: --threads T" copse train a.lua --threads
expect_one "value not wanted" 64 "'--fresh' takes no value, but 'yes' is given" copse train a.lua --fresh=yes
expect_one "no number" 64 "'two': a whole number from 1 to 65536 is wanted" copse train a.lua -n two
expect_one "number out of range" 64 "'0': a whole number from 1 to 65536 is wanted" copse train a.lua -n0
expect_one "threads out of range" 64 "'-1': a whole number from 1 to 4096 is wanted" copse train a.lua --threads -1
expect_one "--set without a value" 64 "'epochs': KEY=VALUE is wanted" copse check "$tree/jobs/quickstart.lua" --set epochs

expect "help of a constructor" 0 'copse.stage.*global_batch.*grain' copse help stage
expect "help of all constructors" 0 'copse.job.*copse.stage.*copse.zero_shot.*metrics:.*top1' copse help options
expect "objectives" 0 'clip .*sigmoid ' copse objectives
expect "objectives clip" 0 'copse.objective.clip.*init_scale.*Every objective also takes:.*weight' copse objectives clip
expect_one "no such objective" 64 "no objective 'clp' .did you mean 'clip'" copse objectives clp
expect_one "no such plugin" 69 "nothing.so" copse objectives --plugin nothing.so
printf 'not a shared object' >text.so
expect_one "a plugin that is no shared object" 69 'text.so' copse objectives --plugin ./text.so

COPSE_HOME=$scratch/nowhere
export COPSE_HOME
expect_one "COPSE_HOME names no folder" 69 "no folder '$scratch/nowhere/plugins'. COPSE_HOME is set" copse objectives
unset COPSE_HOME
cp "$COPSE" "$scratch/lonely"
expect_one "a program without its files" 69 "objective plugins not found.*make install.*COPSE_HOME" "$scratch/lonely" objectives

expect "a BLAS family of the user's choice" 0 '' env OPENBLAS_CORETYPE=Haswell "$COPSE" objectives
expect_one "-n inside of mpirun" 64 "leave '-n' out" mpirun -q -np 1 "$COPSE" train x.lua -n 2
expect_one "-n without mpirun" 69 'mpirun is not on the PATH' env PATH=/nonexistent "$COPSE" train x.lua -n 2
expect "commands of one process run once under mpirun" 0 '  clip  ' mpirun --oversubscribe -np 2 "$COPSE" objectives
check "and say things once" test "$(grep -c '^  clip ' "$output")" -eq 1
expect_one "an error of all ranks is said once" 64 "something is missing" mpirun -q --oversubscribe -np 2 "$COPSE" train
finish
