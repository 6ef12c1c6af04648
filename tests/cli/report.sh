#!/bin/sh
# limit: 600
# copse report: pages of real runs, of a comparison, of a sweep, and of awkward data. Every page is well-formed and refers to nothing
# outside itself; in a browser, where one is installed, nothing is cut off and no text lies on another at 1280 and 400 pixels.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1

check "a data set" copse synth set --classes 4 --train-per-class 16 --test-per-class 8 --size 32 --vocabulary 600 --seed 3
cat >job.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg { steps = 6, lr = 1e-3, seed = 1, objective = "clip" }
return copse.job {
  name = "demo", seed = arg.seed,
  model = copse.model {
    embed_dim = 16,
    image = copse.tower { kind = "vit", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2 },
    text = copse.tower { kind = "text", width = 32, layers = 1, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = {
    copse.stage {
      objective = copse.objective[arg.objective] {}, steps = arg.steps, global_batch = 16, grain = 8,
      optimizer = copse.adamw { lr = arg.lr },
    },
  },
  evaluate = {
    copse.zero_shot { name = "plants", data = "set/test-*.h5", templates = "plants", every = 2 },
    copse.retrieval { name = "pairs", data = "set/test-*.h5" },
  },
}
END_OF_JOB

train() { # train RUN OPTION...
    run_name=$1
    shift
    copse train job.lua --run "$run_name" --threads 1 --quiet "$@"
}

well_formed() { # well_formed PAGE: also for xmllint, where it is installed
    lua5.4 "$tree/tests/cli/report_check.lua" "$1" || return 1
    if command -v xmllint >/dev/null; then xmllint --noout "$1"; fi
}

shows() { # shows NAME PATTERN PAGE
    if grep -q -E -e "$2" "$3"; then pass "$1"; else
        grep -o '<h[12]>[^/]*' "$3" >"$output"
        fail "$1" "no '$2' in $3"
    fi
}

lacks() { # lacks NAME PATTERN PAGE
    if grep -q -E -e "$2" "$3"; then
        grep -o -E -e "$2" "$3" | head -3 >"$output"
        fail "$1" "there is '$2' in $3"
    else pass "$1"; fi
}

# ---- a run ----
for seed in 1 2; do check "run clip-$seed" train "clip-$seed" --set "seed=$seed"; done
for seed in 1 2; do check "run sigmoid-$seed" train "sigmoid-$seed" --set "seed=$seed" --set objective=sigmoid; done
expect "page of a run by its name" 0 'runs/clip-1/report.html: [0-9]+ KB' copse report clip-1
page=runs/clip-1/report.html
check "is well-formed and refers to nothing outside" well_formed "$page"
shows "says how the run stands" 'The run is complete, at step 6 of 6' "$page"
shows "says what came out, and of how many" 'plants: the first answer is right for [0-9.]+ % of 32 images' "$page"
shows "says that one run is one seed" 'This is one run' "$page"
for section in curves ranks classes pictures cost job provenance; do shows "has a section $section" "<section id=\"$section\">" "$page"; done
shows "shows thumbnails of the shard" '<img alt="[^"]*" height="32" src="data:image/jpeg;base64,/9j/' "$page"
lacks "no placeholder where all pictures are there" 'No picture:' "$page"
lacks "no warning where nothing is odd" 'class="warnings"' "$page"
cp "$page" first.html
expect "made again" 0 '' copse report runs/clip-1 --out again.html
sed 's/Made by Copse.*//' first.html >first.txt
sed 's/Made by Copse.*//' again.html >again.txt
check "gives the same page but for the date" cmp first.txt again.txt
expect "several runs at once" 0 'clip-2/report.html.*sigmoid-1/report.html' copse report clip-2 runs/sigmoid-1/
expect "at most two pictures" 0 '' copse report clip-1 --pictures 2 --out two.html
check "has two pictures" test "$(grep -o '<img' two.html | wc -l)" -eq 2
expect "no picture" 0 '' copse report clip-1 --pictures 0 --out none.html
lacks "has none" '<img|No picture' none.html

# ---- wrong use ----
expect_one "no such run" 69 "no folder 'nothing'" copse report nothing
expect_one "a file" 64 "'job.lua' is not a folder" copse report job.lua
expect_one "a folder of runs" 64 "'runs' is no run.*holds 4 runs.*runs/clip-1" copse report runs
expect_one "a folder of nothing" 64 "'set' is no run, no comparison and no sweep" copse report set
expect_one "one page for two runs" 64 '[-][-]out names one page' copse report clip-1 clip-2 --out x.html
expect_one "pictures that are none" 64 "'many': a whole number from 0 to 500" copse report clip-1 --pictures many
expect_one "a page that cannot be written" 74 'nowhere' copse report clip-1 --out nowhere/x.html
expect_one "no operand" 64 'RUN' copse report

# ---- damaged runs ----
cp -r runs/clip-1 runs/odd
printf '{"event":"step","step":7,"loss":nul\n' >>runs/odd/events.jsonl
printf '{"file":"<b>&bad.jpg","record":3,"reason":"truncated at 55 %%"}\nno JSON\n' >runs/odd/quarantine.jsonl
head -c 1000 runs/clip-1/predictions/plants.h5 >runs/odd/predictions/plants.h5
rm runs/odd/provenance.json runs/odd/job.json
expect "a run with damaged files still gets its page" 0 'KB' copse report odd
page=runs/odd/report.html
check "of the damaged run: well-formed" well_formed "$page"
shows "names the damaged line" 'events.jsonl: 1 line' "$page"
shows "names the damaged predictions" 'predictions/plants.h5' "$page"
shows "names the bad image, escaped" '&lt;b&gt;&amp;bad.jpg' "$page"
shows "names what is missing" 'provenance.json is missing' "$page"
mkdir runs/bare
cp runs/clip-1/heartbeat.json runs/bare/
expect "a run of which nothing but the heartbeat is left" 0 'KB' copse report bare
check "of the bare run: well-formed" well_formed runs/bare/report.html
mv set/test-00000.h5 away.h5
expect "a shard that has gone" 0 'KB' copse report clip-1 --out gone.html
shows "leaves a drawn place and the reason" 'No picture: no shard is known to hold it' gone.html
lacks "and no picture" '<img' gone.html
check "without the shard: well-formed" well_formed gone.html
check "another data set" copse synth other --classes 4 --train-per-class 4 --test-per-class 8 --size 32 --vocabulary 600 --seed 4
cp other/test-00000.h5 set/test-00000.h5
expect "a shard that was made anew" 0 'KB' copse report clip-1 --out anew.html
shows "shows no picture of another sample" 'No picture: record [0-9]+ of .* is another sample by now' anew.html
cp away.h5 set/test-00000.h5

# ---- a comparison ----
expect "a comparison" 0 '' copse compare runs/clip-1 runs/clip-2 runs/sigmoid-1 runs/sigmoid-2 --out compared --resamples 200
page=compared/comparison.html
check "its page is well-formed" well_formed "$page"
for section in differences curves ranks classes confusions pictures cost jobs statistics provenance; do
    shows "comparison: section $section" "<section id=\"$section\">" "$page"
done
shows "comparison: the differing key of the jobs" 'objectives\[1\].*(sigmoid|clip)' "$page"
shows "comparison: the verdict in words" '(no method can be told apart from|than) <bdi>clip</bdi>' "$page"
rm "$page"
expect "page of a comparison, from its folder" 0 'compared/comparison.html: [0-9]+ KB' copse report compared
check "of the comparison, again: well-formed" well_formed "$page"
shows "comparison: thumbnails" '<img alt' "$page"
sed 's/"version": *1/"version":2/' compared/comparison.json >other.json
mkdir newer broken
mv other.json newer/comparison.json
expect_one "a comparison of a later version" 65 'version 2, this Copse reads 1' copse report newer
head -c 100 compared/comparison.json >broken/comparison.json
expect_one "a comparison that is cut" 65 'broken/comparison.json. is no comparison' copse report broken
echo '{"format":"copse-comparison","version":1}' >broken/comparison.json
expect "a comparison of nothing" 0 'KB' copse report broken
check "of nothing: well-formed" well_formed broken/comparison.html
expect "from another place" 0 'KB' sh -c 'cd set && "$1" report ../compared' sh "$COPSE"
lacks "its runs are found" 'Not found, so they are' "$page"
mv runs/sigmoid-2 runs/sigmoid-1 "$scratch"
expect "a comparison whose runs were deleted" 0 'KB' copse report compared
check "of deleted runs: well-formed" well_formed "$page"
shows "names them" 'Not found, so they are .*sigmoid-1, sigmoid-2' "$page"

# ---- a sweep ----
sed -e 's/^return copse.job {/local function job(p) return copse.job {/' -e 's/name = "demo", seed = arg.seed/name = "swept", seed = p.seed/' \
    -e 's/lr = arg.lr/lr = p.lr/' -e 's/steps = arg.steps/steps = 2/' job.lua >sweep.lua
cat >>sweep.lua <<'END_OF_SWEEP'
end
return copse.sweep { name = "swept", space = { lr = { 1e-4, 1e-3, 1e-2 } }, search = copse.grid {}, seeds = { 1 }, job = job }
END_OF_SWEEP
expect "a sweep" 0 '' copse sweep run sweep.lua -j 1 --threads 1
expect "page of a sweep" 0 'runs/swept/report.html' copse report runs/swept
check "of the sweep: well-formed" well_formed runs/swept/report.html
shows "names the best trial" 'Best: trial [1-3] .lr = ' runs/swept/report.html

# ---- awkward data ----
mkdir awkward
check "pages of awkward data are made" env LUA_PATH="$tree/lua/?.lua" lua5.4 "$tree/tests/cli/report_pages.lua" awkward
for page in awkward/*.html; do check "$page: well-formed" well_formed "$page"; done
for wrong in '<script>x</script>' '<img src="http://x/"/>' '<p>' 'a & b' '<p onclick="x">a</p>' '<p style="background:url(x)">a</p>' \
    '<a href="//x">a</a>'; do
    { sed 's/<footer>.*//' first.html && printf '%s</body></html>\n' "$wrong"; } >wrong.html
    expect "the check finds $wrong" 1 'wrong.html:' lua5.4 "$tree/tests/cli/report_check.lua" wrong.html
done
shows "a method's name stays text" '&lt;script&gt;alert' awkward/comparison-hostile.html

# ---- in a browser ----
browser=
for name in chromium chromium-browser google-chrome; do
    if [ -z "$browser" ] && command -v "$name" >/dev/null; then browser=$name; fi
done

if [ -z "$browser" ]; then
    skip "layout at 1280 and 400 pixels" "chromium is not installed"
    finish
fi
set -- first.html gone.html compared/comparison.html runs/swept/report.html awkward/*.html
lua5.4 "$tree/tests/cli/report_layout.lua" frames.html "$@"
limit=240
run "$browser" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars \
    --user-data-dir="$scratch/browser" --window-size=1300,900 --dump-dom "file://$scratch/frames.html"
grep -o '<p>[^<]* inner=[^<]*' "$output" >layout.txt
for page in "$@"; do
    for width in 1280 400; do
        grep -F -e "<p>$page $width " layout.txt >"$output"
        if grep -q -e "inner=$width scroll=$width texts=.* overlaps=0 cut=0 wide=0;" "$output"; then
            pass "$page at $width pixels: nothing cut off, nothing overlaps"
        else
            fail "$page at $width pixels" "something is cut off or overlaps"
        fi
    done
done
finish
