#!/bin/sh
# Which share of old pictures to train on beside new ones: towers that know satellite tiles learn leaves of crops with five shares of
# tiles, three seeds each; the mixing law is fitted to the two domains' validation losses; then runs with the shares that it advises
# say what its predictions were worth. Prints tables. METHOD=dalip: the same with DALIP in place of CLIP, and the loss of the first
# feature, by which it is judged what was kept.
. "$(dirname "$0")/study.sh"
METHOD=${METHOD:-clip}
case $METHOD in
clip) loss=loss ;;
dalip)
    loss=first
    RUNS=$RUNS-dalip
    mkdir -p "$RUNS" || exit 74
    ;;
*)
    echo "$0: METHOD is '$METHOD': clip or dalip" >&2
    exit 64
    ;;
esac
shares='0.1 0.2 0.3 0.4 0.5'
count_runs 7 1
command -v lua5.4 >/dev/null || { echo "$0: there is no lua5.4, which fits the law: 'make deps' installs it" >&2; exit 69; }

# try SHARE: its runs, all seeds
try() {
    for seed in $SEEDS; do
        run "share-$1-$seed" mixing-law.lua --set "method=$METHOD" --set "share=$1" --set "seed=$seed" --set "start=$start"
    done
}
# law MODE [SHARE]...: mixing-law-fit.lua with what was measured at these shares and at those that are fitted
law() {
    mode_of_law=$1
    shift
    for share in $shares "$@"; do
        for seed in $SEEDS; do
            echo "$share $seed $(value "share-$share-$seed" "general.$loss") $(value "share-$share-$seed" "target.$loss")"
        done
    done | LUA_PATH='lua/?.lua' lua5.4 jobs/studies/mixing-law-fit.lua "$mode_of_law" "$(value start "general.$loss")" "$shares"
}

run start mixing-law.lua --set "method=$METHOD" --set share=1 --set steps=100
if [ -n "$failed" ]; then
    finish
    exit
fi
for start in "$RUNS"/start/checkpoints/step-*.h5; do :; done # the last one
for share in $shares; do
    try "$share"
done
advised=$(law shares)
for share in $advised; do
    try "$share"
done
echo 'Validation losses after training, by the share of general data (satellite tiles) beside the target (leaves):'
rows=
for share in $shares; do
    rows="$rows;$share=share-$share"
done
table "${rows#;}" "general=general.$loss;target=target.$loss"
echo 'The law L = c + exp(k x + b), x the own share of each domain, fitted to the means; what it predicts, and what then was measured:'
echo
# shellcheck disable=SC2086 # a list of shares
law report $advised
echo
finish
