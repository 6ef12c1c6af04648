/* A procedural data set: drawn plants whose leaf shape, margin, colour pattern and symptoms follow
 * a made-up taxonomy. For demos and tests without downloads; deterministic by (seed, record).
 * Collective over `comm`: shard s is written by rank s mod R. */
#ifndef CPS_SHARDS_SYNTH_H
#define CPS_SHARDS_SYNTH_H

#include "base/options.h"
#include "comm/comm.h"

typedef struct cps_synth_options {
    const char *folder; /* gets train-00000.h5 ..., test-00000.h5 ..., captions.txt, classes.txt;
                           made if missing */
    int64_t classes;    /* 2 .. 4096; default 16 */
    int64_t train_per_class; /* images; default 100 */
    int64_t test_per_class;  /* default 20 */
    int64_t captions;        /* of each image, 1 .. 5; default 2 */
    int64_t size;            /* pixels a side, 32 .. 512; default 96 */
    int64_t shard_images;    /* records a shard; default 1000 */
    int64_t seed;
    bool overwrite; /* else a folder that holds another data set, or shards of another origin, is an
                       error; the same one is kept, one that was not finished is drawn anew */
    void (*progress)(void *context, int64_t done, int64_t total); /* rank 0, may be NULL */
    void *progress_context;
} cps_synth_options;

/* Rows over cps_synth_options (folder, progress and its context aside). */
extern const cps_option cps_synth_option_rows[];

typedef struct cps_synth_report {
    int64_t train_images, test_images, train_shards, test_shards;
} cps_synth_report;

/* Collective. USAGE for options out of range, IO for disk trouble; agreed. */
cps_status cps_synth(cps_comm *comm, const cps_synth_options *options,
                     cps_synth_report *report_out) CPS_MUST_CHECK;

#endif
