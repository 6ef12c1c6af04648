/* Methods head to head: all statistics of `copse compare`, from predictions of runs to JSON
 * (comparison.md: members that it marks as evaluations, friedman, tests). Numbers alone: words,
 * tables and what the runs cost are made in Lua. f64 in both builds, the same bits on any threads;
 * nothing here prints. Local; main thread (uses the pool). */
#ifndef CPS_REPORT_COMPARISON_H
#define CPS_REPORT_COMPARISON_H

#include "base/json.h"

/* request: { "methods": ["clip", "sclip"], "baseline": "clip",
 *            "settings": { "confidence", "bootstrap", "resamples", "seed", "power" },
 *            "evaluations": [ { "name": "rs", "label": "rs of a",       // absent: the name
 *                "metrics": ["top1"],                                   // absent: the main one
 *                "files": [ { "run": "clip-1", "method": "clip", "seed": 1, "path": "..." } ] } ] }
 * A method has a seed once in an evaluation; it may lack evaluations, and seeds that others have:
 * methods without a common seed are not compared there, and a warning says so.
 * Metrics that an evaluation does not offer are left out of it. The result: { "evaluations",
 * "friedman", "tests", "warnings" }; each evaluation also has "offers", the metrics that could be
 * asked for. USAGE: a request that is none of that; DATA: files that cannot be compared. */
cps_status cps_comparison(const cps_json *request, cps_json **result_out) CPS_MUST_CHECK;

#endif
