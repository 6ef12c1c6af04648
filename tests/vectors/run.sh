#!/bin/sh
# Runs one runner of golden vectors on the file that belongs to it: tests/vectors/run.sh RUNNER
# The files are beside the tree, in ../shared; without them this is a skip.
shared=$(dirname "$0")/../../../shared
case ${1##*/vectors_} in
clip) set -- "$1" "$shared/vectors/clip.h5" ;;
preprocess) set -- "$1" "$shared/vectors/preprocess.h5" "$shared/data/preprocess" ;;
tokenizer) set -- "$1" "$shared/data/clip-bpe/tokenizer-vectors.json" "$shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz" ;;
bioclip) set -- "$1" "$shared/vectors/bioclip.h5" "$shared/vectors/bioclip-text.json" ;;
sclip) set -- "$1" "$shared/vectors/s-clip.h5" ;;
dalip | agriclip) set -- "$1" "$shared/vectors/${1##*/vectors_}.h5" ;;
stats) set -- "$1" "$shared/vectors/stats.json" ;;
*)
    echo "no vectors are known for $1"
    exit 1
    ;;
esac
if [ ! -e "$2" ]; then
    echo "skipped: ${2#"$shared/"} is not in ../shared"
    exit 77
fi
exec "$@"
