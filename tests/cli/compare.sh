#!/bin/sh
# limit: 400
# copse compare on real runs: two objectives with three seeds each, one seed, data that differ, refusals, warnings by name, damaged
# and deleted runs; CSV, LaTeX and JSON.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 12 --test-per-class 10 --size 32 --seed 4
check "another one" copse synth other --classes 4 --train-per-class 12 --test-per-class 10 --size 32 --seed 5
cat >job.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg { objective = "clip", seed = 1, epochs = 2, lr = 1e-3, data = "set", batch = 24, val = true }
local evaluate = {
  copse.zero_shot { name = "plants", data = arg.data .. "/test-*.h5", templates = "plants", every = "epoch" },
  copse.zero_shot { name = "plain", data = arg.data .. "/test-*.h5", templates = { "{}" } },
  copse.retrieval { name = "pairs", data = arg.data .. "/test-*.h5" },
  copse.few_shot { name = "few", data = arg.data .. "/test-*.h5", shots = { 1, 2 }, folds = 3 },
  copse.knn { name = "near", data = arg.data .. "/test-*.h5", bank = arg.data .. "/train-*.h5", k = 3 },
}
if arg.val then evaluate[#evaluate + 1] = copse.validation_loss { name = "val", data = arg.data .. "/test-*.h5", batch = 20, grain = 10 } end
return copse.job {
  name = "tiny", seed = arg.seed,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = arg.data .. "/tokenizer.txt", context = 24 },
  data = { paired = copse.shards { arg.data .. "/train-*.h5" } },
  stages = { copse.stage { objective = copse.objective[arg.objective] {}, epochs = arg.epochs, global_batch = arg.batch, grain = 8,
    optimizer = copse.adamw { lr = arg.lr } } },
  evaluate = evaluate,
  checkpoint = copse.checkpoint { best = "plants.top1" },
}
END_OF_JOB
train() { # train NAME SETTING...
    run_name=$1
    shift
    set -- $(for setting in "$@"; do printf ' --set %s' "$setting"; done)
    "$COPSE" train job.lua --run "$run_name" --threads 2 "$@"
}
for seed in 1 2 3; do
    check "clip, seed $seed" train clip-$seed objective=clip seed=$seed
    check "sigmoid, seed $seed" train sigmoid-$seed objective=sigmoid seed=$seed
done

# ---- three seeds, two methods
expect "six runs of a folder" 0 'clip, sigmoid; final evaluations; baseline clip.*plants: zero_shot top1, 40 samples.*method +seeds +mean %.*clip +3 .*baseline.*sigmoid +3 .*(better|worse|not distinguishable).*McNemar.*seed 3: .*mid-p.*with 3 seeds it cannot be below 0.25.*pairs: retrieval image_to_text_r1.*few: few_shot shot1.*near: knn top1.*top1 over 3 data sets: average ranks.*Friedman chi2.*not compared, since nothing is kept per sample: val.*written: out/comparison.html, .json' \
    copse compare runs --out out
cp "$output" first
expect "the same runs by name, in another order" 0 '' copse compare sigmoid-3 clip-2 clip-1 sigmoid-1 clip-3 sigmoid-2 --out again
field() { # field EXPRESSION: of out/comparison.json
    python3 -c "import json,sys; c=json.load(open('out/comparison.json')); e={x['name']:x for x in c['evaluations']}; sys.exit(0 if ($1) else 1)"
}
if command -v python3 >/dev/null; then
    check "JSON: methods, runs, seeds" field "[m['name'] for m in c['methods']]==['clip','sigmoid'] and len(c['runs'])==6 and c['methods'][1]['seeds']==[1,2,3]"
    check "the estimate is the mean of what the runs reported" field \
        "abs(e['plants']['metrics'][0]['methods'][0]['estimate']-sum([json.loads(l)['top1'] for l in open(f'runs/clip-{s}/events.jsonl') if '\"name\":\"plants\"' in l][-1] for s in (1,2,3))/3)<1e-12"
    check "few-shot as the runs reported it" field \
        "abs(e['few']['metrics'][0]['methods'][1]['values'][1]-[json.loads(l)['shot1'] for l in open('runs/sigmoid-2/events.jsonl') if '\"name\":\"few\"' in l][-1])<1e-9"
    check "ranks of the taxonomy, classes, confusions, disagreements" field \
        "[r['rank'] for r in e['plants']['ranks']][-1]=='species' and len(e['plants']['per_class']['classes'])==4 and isinstance(e['plants']['confusions'],list) and all(d['shard'].endswith('/set/test-00000.h5') for d in e['plants']['disagreements'])"
    check "images seen, cost and provenance of runs" field \
        "all(r['images']=={'paired': 96} and r['provenance']['blas_core'] for r in c['runs'])"
    check "what differs between the jobs" field "any(d['key']=='stages[1].objectives[1].name' and d['values']=={'clip':'clip','sigmoid':'sigmoid'} for d in c['job_differences'])"
    check "Friedman over three data sets" field "c['friedman'][0]['evaluations']==['plants','plain','near'] and abs(sum(r['rank'] for r in c['friedman'][0]['ranks'])-3)<1e-12"
    check "empty lists stay lists" field "isinstance(c['warnings'],list) and isinstance(c['friedman'],list)"
    check "CSV parses, a line for each data set and method" python3 -c "
import csv; rows=list(csv.DictReader(open('out/comparison.csv', newline='')))
assert len(rows)==10 and {r['method'] for r in rows}=={'clip','sigmoid'} and all(float(r['estimate'])>=0 for r in rows)
assert all(r['verdict'] for r in rows if r['method']=='sigmoid') and len(rows[0]['values'].split(';'))==3"
else
    skip "what JSON and CSV hold" "there is no python3"
fi
same() { # the JSON of both but for the time, and for the order in which runs were named
    sed 's/"made":"[^"]*"//; s/"folder":"[^"]*"//g' out/comparison.json >a && sed 's/"made":"[^"]*"//; s/"folder":"[^"]*"//g' again/comparison.json >b && cmp a b
}
check "the same numbers, whatever the order" same
balanced() { # braces, environments and columns of the table
    awk '{ line = $0; gsub(/\\[{}]/, "", line); open += gsub(/{/, "", line); close_ += gsub(/}/, "", line) }
        END { exit open != close_ }' out/comparison.tex &&
        [ "$(grep -c '\\begin{' out/comparison.tex)" -eq "$(grep -c '\\end{' out/comparison.tex)" ] &&
        grep -q '\\toprule' out/comparison.tex && [ "$(grep -c '^sigmoid\|^clip' out/comparison.tex)" -eq 2 ]
}
check "a page" grep -q '<svg' out/comparison.html
check "LaTeX: braces and environments" balanced
if command -v pdflatex >/dev/null; then
    { printf '\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n' && cat out/comparison.tex && echo '\end{document}'; } >paper.tex
    check "LaTeX compiles" pdflatex -interaction=nonstopmode -halt-on-error paper.tex
else
    skip "LaTeX compiles" "there is no pdflatex"
fi

# ---- metrics, baseline, names
expect "metrics that are asked for" 0 'plants: zero_shot per_class.*plants: zero_shot rank_genus.*pairs: retrieval text_to_image_median_rank, 40 samples; less is better' \
    copse compare runs --metric per_class --metric plants.rank_genus --metric pairs.text_to_image_median_rank --out metrics
expect "recall at another k" 0 'image_to_text_r3' copse compare runs --metric image_to_text_r3 --out k
expect "a metric that there is not" 64 "no evaluation of these runs has values per sample of 'plants.top2'.*plants.top1" copse compare runs --metric plants.top2 --out no
expect "percentiles, another confidence" 0 '90 % intervals.*percentile, 500 resamples' copse compare runs --bootstrap percentile --resamples 500 --confidence 0.9 --out percentile
expect "another baseline" 0 'baseline sigmoid' copse compare runs --baseline sigmoid --out baseline
expect "no such baseline" 64 "the methods are clip, sigmoid .did you mean 'clip'" copse compare runs --baseline clop
expect "a confidence out of range" 64 'confidence' copse compare runs --confidence 1.5
expect "too few resamples" 64 '10 resamples' copse compare runs --resamples 10
expect "a word for a number" 64 "resamples is 'many', a number is wanted" copse compare runs --resamples many
expect "names of methods" 0 'a & b_1, c; .*baseline a & b_1' copse compare runs --method 'a & b_1=clip-*' --method 'c=*sigmoid-?' --baseline 'a & b_1' --out names
check "LaTeX escapes them" grep -q '^a \\& b\\_1 &' names/comparison.tex
expect "a pattern that matches nothing" 64 'matches none' copse compare runs --method 'a=clip*' --method 'b=nothing*'
expect "trials that are said" 0 'tuning trials differ: clip 12; sigmoid 1' copse compare runs --trials clip=12 --trials sigmoid=1 --out trials
expect "where files go by themselves" 0 'written: comparisons/clip-sigmoid-[0-9a-f]*/comparison.html' copse compare runs
expect "one method" 0 'there is nothing to compare it with' copse compare clip-1 clip-2 --out one

# ---- the best checkpoints
expect "best checkpoints" 0 "best checkpoints' evaluations.*plants: zero_shot top1" copse compare runs --at best --out best
if command -v python3 >/dev/null; then
    check "their steps are those of the best values" python3 -c "
import json
c=json.load(open('best/comparison.json'))
for r in c['runs']:
    best=None
    for line in open(r['folder']+'/events.jsonl'):
        e=json.loads(line)
        if e.get('name')=='plants' and (best is None or e['top1']>best['top1']): best=e
    assert r['evaluations']['plants']['step']==best['step'], (r['run'], best['step'])
    m=[x for x in c['evaluations'] if x['name']=='plants'][0]['metrics'][0]
    i=[x['name'] for x in c['methods']].index(r['method'])
    assert abs(m['methods'][i]['values'][r['seed']-1]-best['top1'])<1e-12"
fi
rm -r runs/clip-1/predictions/best
expect "a run without them" 0 "run 'clip-1' has no predictions of 'plants' from its best checkpoint" copse compare runs --at best --out best2
expect "another word" 64 "at is 'worst', final or best is wanted" copse compare runs --at worst

# ---- one seed
expect "one seed" 0 'one seed of clip, sigmoid: the variance between seeds is unknown.*one seed: about these two models' copse compare clip-1 sigmoid-1 --out single
expect "seeds that differ" 0 'seeds differ: clip 1, 2; sigmoid 2, 3' copse compare clip-1 clip-2 sigmoid-2 sigmoid-3 --out seeds
expect "no seed in common" 64 "have no evaluation with a seed in common" copse compare clip-1 sigmoid-2 --out no

# ---- a sweep
cat >sweep.lua <<'END_OF_SWEEP'
local copse = require "copse"
return copse.sweep {
  name = "ablation",
  space = { method = { "plain", "slow" }, lr = { 1e-3, 1e-2 } },
  seeds = { 1, 2 },
  job = function(p)
    return copse.job {
      seed = p.seed,
      model = copse.model { preset = "ViT-Micro-8" },
      tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
      data = { paired = copse.shards { "set/train-*.h5" } },
      stages = { copse.stage { objective = copse.objective.clip {}, steps = 2, global_batch = 24, grain = 8,
        optimizer = copse.adamw { lr = p.lr }, schedule = copse.cosine { warmup_steps = p.method == "slow" and 1 or 0 } } },
      evaluate = { copse.zero_shot { name = "plants", data = "set/test-*.h5", templates = "plants" } },
    }
  end,
}
END_OF_SWEEP
check "runs of a sweep" copse sweep run sweep.lua -j 2 --threads 1
expect "its trials are not one method" 64 "method 'plain' has runs of different jobs.*stages\[1\].optimizer.lr: 0.001, 0.01.*--method" copse compare runs/ablation
expect "its parameter 'method'" 0 'plain, slow; .*plain +2 .*slow +2 ' sh -c '"$COPSE" compare $(ls -d runs/ablation/*0.001*) --out ablation'
expect "other parameters tell methods apart" 0 '^slow,0.01, .*baseline slow,0.01.*plain,0.001 +2 .*plain,0.01 +2 ' \
    copse compare runs/ablation --by method,lr --baseline slow,0.01 --out by
expect "a parameter that there is not" 64 "by names no parameter of the sweep: there are lr, method" copse compare runs/ablation --by rate
sed -i 's/1e-3, 1e-2/1e-3/' sweep.lua
check "the sweep without one of its rates" copse sweep run sweep.lua
expect "runs that are no longer in the sweep" 0 'is no longer in its sweep: it is left out.*plain, slow; ' copse compare runs/ablation --out left
if command -v python3 >/dev/null; then
    check "and how many trials each had" python3 -c "
import json; c=json.load(open('ablation/comparison.json')); assert [m['trials'] for m in c['methods']]==[2,2]"
fi

mkdir -p mixed/bad && cp -r clip-1 mixed/ 2>/dev/null || cp -r runs/clip-1 mixed/
printf '{"format":1,"name":"bad","state":"failed","message":"no data"}\n' >mixed/bad/heartbeat.json
expect "a run that failed before it began is left out" 0 "run 'bad' .failed. does not say what its job was, and is left out: no data" \
    copse compare mixed --out mixed-out
expect_one "and is an error where it is named" 65 "run '.*mixed/bad' does not say what its job was" copse compare mixed/bad

# ---- what is unfair is named
check "longer, in smaller batches" train long-1 objective=sigmoid seed=1 epochs=3 batch=16
expect "images and steps" 0 'images seen differ: clip 96 of paired; sigmoid 144 of paired.*training steps differ: clip 4; sigmoid 9.*global batches differ: clip 24; sigmoid 16' \
    copse compare clip-1 long-1 --out unfair
expect "jobs of one method differ" 64 "method 'sigmoid' has runs of different jobs.*stages\[1\].epochs: 3, 2.*--method" copse compare clip-1 sigmoid-1 long-1
expect "the same run twice is one run" 0 '' copse compare clip-1 runs/clip-1 sigmoid-1 --out twice
cp -r runs/clip-1 copied
expect "a seed twice" 64 "both of method 'clip' with seed 1" copse compare clip-1 copied sigmoid-1

# ---- refusals
check "on other data" train far-1 objective=sigmoid seed=1 data=other
expect "evaluation sets that differ" 65 "evaluation 'plants': the evaluation sets of .*clip-1.* and .*far-1.* differ .digests" copse compare clip-1 far-1 --out no
check "the baseline there" train farclip-1 objective=clip seed=1 data=other
expect "two data sets of one name" 0 'plants .*: zero_shot' copse compare clip-1 sigmoid-1 far-1 farclip-1 --out two

# ---- runs that are not as they should be
expect "a run that is not there" 69 "there is no run and no folder 'gone'" copse compare clip-1 gone
mkdir empty
expect "an empty folder" 69 "there are no runs in 'empty'" copse compare empty
cp -r runs/sigmoid-1 half && rm half/predictions/plants.h5
expect "predictions deleted by hand" 0 "run 'half' has no predictions of 'plants': it is left out there" copse compare clip-1 half --out half-out
rm -r half/predictions/*
expect "all of them" 65 'none of the 1 runs has predictions to compare' copse compare half --out no
cp -r runs/sigmoid-1 nojob && rm nojob/job.json
expect "without its job" 65 'does not say what its job was .job.json.' copse compare clip-1 nojob
cp -r runs/sigmoid-1 cut
head -c 3000 runs/sigmoid-1/predictions/plants.h5 >cut/predictions/plants.h5
expect "predictions cut in half" 65 "evaluation 'plants': predictions: .*plants.h5" copse compare clip-1 cut --out no
printf 'not this' >cut/predictions/plants.h5
expect "another file there" 65 "plants.h5" copse compare clip-1 cut --out no
cp runs/sigmoid-1/predictions/pairs.h5 cut/predictions/plants.h5
expect "another evaluation's" 65 "is of evaluation 'pairs', 'plants' is wanted" copse compare clip-1 cut --out no
cp -r runs/sigmoid-1 broken
sed 's/\("name":"plants","step":[0-9]*\),.*/\1,"top1":null,"per_class":null}/' runs/sigmoid-1/events.jsonl >broken/events.jsonl
expect "NaN metrics are named" 0 "run 'broken', evaluation 'plants': no metric is a finite number" copse compare clip-1 broken --out nan
cp -r runs/sigmoid-1 going
sed 's/"state":"done"/"state":"failed"/; s/"step":4,/"step":3,/' runs/sigmoid-1/heartbeat.json >going/heartbeat.json
expect "a run that failed" 0 "run 'going' is not complete .failed" copse compare clip-1 going --out going-out
odd=$(printf 'odd\377-1')
cp -r runs/sigmoid-1 "$odd"
expect "a folder's name that is no UTF-8" 64 'no UTF-8: rename it' copse compare clip-1 "$odd"
expect "a folder that cannot be made" 74 'job.lua' copse compare clip-1 sigmoid-1 --out job.lua/out
expect "help lists each statistic with its source" 0 'Wilson, JASA 22, 1927.*Holm, Scand.*McNemar.*Friedman.*Bloom' copse compare --help
finish
