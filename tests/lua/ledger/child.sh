# The child of worker.lua: FOLDER KEY. It marks that it is alive (the shell's noclobber is O_EXCL), says so where another one of
# its key is alive too, works for a moment, notes that it is through, and takes the mark away. SIGTERM ends it in order.
folder=$1 key=$2
mark=$folder/alive/$key
nap=
trap 'rm -f "$mark"; [ -z "$nap" ] || kill "$nap" 2>/dev/null; exit 143' TERM
until (set -C && echo $$ >"$mark") 2>/dev/null; do
    other=$(cat "$mark" 2>/dev/null)
    if [ -n "$other" ] && kill -0 "$other" 2>/dev/null; then
        echo "$key: $$ and $other are alive at once" >>"$folder/violations"
        exit 1
    fi
    rm -f "$mark" # of one that was killed
done
sleep "0.$(($$ % 3 + 1))" &
nap=$!
wait "$nap"
nap=
: >"$folder/through/$key.$$"
rm -f "$mark"
