#!/bin/sh
# limit: 600
# What `make tidy` looks at beside the tests: format, layers, headers that compile alone, symbols that plugins export, option
# rows without a word in their page. Prints one line a check and the sum. Environment: COPSE, COPSE_ROOT, CC, ENGINE_CFLAGS,
# PLUGIN_CFLAGS.
cd "$(dirname "$0")/.." || exit 1
passed=0
failed=0
skipped=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

verdict() { # verdict NAME STATUS: shows $scratch/output when it failed
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok    $1"
    else
        failed=$((failed + 1))
        echo "FAIL  $1"
        sed 's/^/      /' "$scratch/output"
    fi
}

sources=$(find runtime shards plugins tests -name '*.[ch]' | LC_ALL=C sort)
if command -v clang-format >/dev/null; then
    # shellcheck disable=SC2086
    clang-format --dry-run --Werror $sources >"$scratch/output" 2>&1
    status=$?
    grep 'error:' "$scratch/output" | cut -d: -f1 | sort | uniq -c >"$scratch/files"
    mv "$scratch/files" "$scratch/output"
    verdict "format (clang-format -i mends it; the number is that of places)" "$status"
else
    skipped=$((skipped + 1))
    echo "skip  format: clang-format is not installed"
fi

lua5.4 tests/layers.lua >"$scratch/output" 2>&1
verdict "layers" $?

find tests -mindepth 2 -name '*.sh' ! -perm -u+x | sed 's/$/ cannot be run: chmod +x/' >"$scratch/output"
[ ! -s "$scratch/output" ]
verdict "every script of tests can be run" $?

: >"$scratch/output"
for header in $(find runtime shards -name '*.h' | LC_ALL=C sort); do
    printf '#include "%s"\n' "${header#runtime/}" >"$scratch/alone.c"
    eval "$CC -fsyntax-only $ENGINE_CFLAGS -Wno-unused-function -Werror $scratch/alone.c" >>"$scratch/output" 2>&1 ||
        echo "$header does not compile alone" >>"$scratch/output"
done
[ ! -s "$scratch/output" ]
verdict "every header compiles alone" $?

printf '#include "copse_objective.h"\n' >"$scratch/alone.c"
eval "$CC -fsyntax-only $PLUGIN_CFLAGS -Wno-unused-function -Werror $scratch/alone.c" >"$scratch/output" 2>&1
verdict "copse_objective.h compiles with libc alone" $?

: >"$scratch/output"
for plugin in "$COPSE_ROOT"/plugins/*.so; do
    symbols=$(nm -D --defined-only "$plugin" | awk '{ print $3 }' | tr '\n' ' ')
    [ "$symbols" = "cps_plugin " ] || echo "$plugin exports '$symbols', not cps_plugin alone" >>"$scratch/output"
    open=$(nm -D --undefined-only "$plugin" | awk '{ print $2 }' | grep '^cps_')
    [ -z "$open" ] || echo "$plugin leaves open: $open" >>"$scratch/output"
done
[ ! -s "$scratch/output" ]
verdict "plugins export cps_plugin alone" $?

# "copse objectives NAME --plain" and "copse help options --plain" print a row as owner, name, kind, default, choices.
words() {
    awk -F '\t' '{ print $2; n = split($5, choice, ","); for (i = 1; i <= n; i++) print choice[i] }' | sort -u
}
: >"$scratch/output"
for plugin in plugins/*/; do
    plugin=${plugin#plugins/}
    plugin=${plugin%/}
    page=plugins/$plugin/$plugin.md
    if [ ! -e "$page" ]; then
        echo "there is no $page" >>"$scratch/output"
        continue
    fi
    for objective in $("$COPSE" objectives --plain | cut -f 1 | grep -x -E "$plugin(\..*)?"); do
        "$COPSE" objectives "$objective" --plain | words >"$scratch/words"
        while read -r word; do
            grep -q -w -F -e "$word" "$page" || echo "$page does not name '$word' of objective $objective" >>"$scratch/output"
        done <"$scratch/words"
    done
done
"$COPSE" help options --plain | words >"$scratch/words"
[ -s "$scratch/words" ] || echo "copse help options --plain printed nothing" >>"$scratch/output"
while read -r word; do
    grep -q -w -F -e "$word" jobs/options.md ||
        echo "jobs/options.md does not name option or choice '$word' of a constructor" >>"$scratch/output"
done <"$scratch/words"
[ ! -s "$scratch/output" ]
verdict "every option row and choice is named in its page" $?

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
