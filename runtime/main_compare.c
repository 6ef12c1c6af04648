/* copse compare: its flags, its page of statistics, and the service that computes them. The course
 * is lua/copse/commands/compare.lua. */
#include "main.h"

#include "base/pool.h"
#include "report/comparison.h"

const cps_flag cps_compare_flags[] = {
    {"baseline", 'b', "NAME",
     "the method that others are measured against (default: clip, else the first)"},
    {"metric", 'm', "[EVALUATION.]METRIC",
     "instead of each evaluation's main metric; may be repeated"},
    {"method", 0, "NAME=GLOB",
     "runs whose name or folder matches are of this method; may be repeated"},
    {"by", 0, "PARAMETER[,PARAMETER]",
     "of a sweep: trials with equal values of these are one method (default: method)"},
    {"trials", 0, "NAME=N", "tuning trials that a method had; may be repeated (sweeps say it)"},
    {"at", 0, "final|best", "the last evaluation of each run, or that of its best checkpoint"},
    {"out", 'o', "DIR", "where files go (default: comparisons/<methods>-<digest>)"},
    {"bootstrap", 0, "bca|percentile", "shape of the intervals (default: bca)"},
    {"resamples", 0, "N", "of the bootstrap (default: 2000)"},
    {"confidence", 0, "SHARE", "of intervals; tests are at 1 - SHARE (default: 0.95)"},
    {NULL, 0, NULL, NULL},
};

const char cps_compare_help[] =
    "RUN is a folder of one run, SWEEP one of several. Runs are grouped into methods: by --method, "
    "else by the values of\n"
    "the sweep's parameters --by, or 'method', else by the objectives of their stages. A block is "
    "a data set with a seed; "
    "samples are paired by\n"
    "id within it. Runs whose evaluation sets, preprocessing or class lists differ are refused; "
    "whatever else makes a\n"
    "comparison unfair is named above the table. Main metrics: top1 (zero_shot, knn), "
    "image_to_text_r1 (retrieval),\n"
    "shot<k> of the smallest k (few_shot). DIR gets comparison.json, .csv, .tex and .html.\n"
    "\n"
    "What is computed (runtime/report/statistics.h, bootstrap.h and comparison.md say more):\n"
    "  estimate          mean over seeds of the metric on all paired samples\n"
    "  interval          two-level bootstrap: seeds, then samples, the same for all seeds (Owen, "
    "Ann. Appl. Stat. 1,\n"
    "                    2007); BCa (Efron, JASA 82, 1987) or percentile; its width from the "
    "variances between seeds\n"
    "                    and samples with Student's quantiles (Banerjee, Sankhya 22, 1960)\n"
    "  Wilson interval   of one model's share of right answers (Wilson, JASA 22, 1927): samples "
    "alone, no seeds\n"
    "  per_class         mean over classes of the share right in the class; its bootstrap draws "
    "samples\n"
    "  difference        method minus baseline on common seeds and samples, paired two-level "
    "bootstrap interval and p\n"
    "  p (Holm)          of all differences to the baseline that are shown, adjusted for their "
    "number (Holm, Scand. J.\n"
    "                    Stat. 6, 1979); the verdict comes from it. What lacks a p is not "
    "counted\n"
    "  ~                 not distinguishable from the best: paired bootstrap p times the number of "
    "pairs (Bonferroni,\n"
    "                    since the best was picked after the fact); pairs with the baseline by "
    "Holm's p\n"
    "  McNemar           per seed, exact and mid-p, on samples that two models decide differently "
    "(McNemar,\n"
    "                    Psychometrika 12, 1947; Fagerland and others, BMC Med. Res. Methodol. 13, "
    "2013)\n"
    "  sign flips        exact permutation of signs of the differences over seeds (Fisher, 1935): "
    "no p below 0.05 with\n"
    "                    fewer than 6 seeds\n"
    "  Friedman          average ranks over three or more data sets (Friedman, JASA 32, 1937; "
    "Demsar, JMLR 7, 2006)\n"
    "  detectable        smallest difference that this design finds with probability 0.8 at the "
    "strictest level of\n"
    "                    Holm's (Bloom, Evaluation Review 19, 1995)\n"
    "With one seed the variance between seeds is unknown: intervals and tests are then about these "
    "trained models, not\n"
    "about methods.";

cps_status cps_service_comparison(const cps_json *request, cps_json **result_out) {
    CPS_TRY(cps_pool_start(cps_machine_cores()));
    const cps_status status = cps_comparison(request, result_out);
    cps_pool_stop();
    return status;
}
