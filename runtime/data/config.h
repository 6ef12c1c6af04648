/* Options of a job's streams and tokenizer, filled from the resolved job's JSON. Plain values;
 * strings belong to the arena that was given. Local. */
#ifndef CPS_DATA_CONFIG_H
#define CPS_DATA_CONFIG_H

#include "base/options.h"

/* One set of shards, or of records of a CSV that is packed once. */
typedef struct cps_shards_options {
    int64_t pattern_count;
    const char *const
        *patterns;      /* absolute path patterns of shards; none where `source` is given */
    const char *source; /* absolute path of a CSV or TSV, or NULL */
    /* With `source` alone, as cps_pack_options (shards/pack.h) has them; paths are absolute. */
    const char *classes; /* a file of class names in index order, or NULL: sorted */
    int32_t format;
    const char *root, *class_captions;
    bool allow_missing;
    const char *caption;  /* text field that gives the captions */
    int32_t caption_draw; /* 0: at each access, 1: fixed */
    const char *rest_of;  /* the records that stream `rest_of` leaves out, or NULL */
    double fraction;      /* share of the records; 0: not given */
    int64_t count;        /* number of records; 0: not given */
    int64_t seed;         /* of the subset's draw */
    int32_t draw;         /* cps_subset_draw of data/stream.h */
    double weight;        /* in a mixture; 0: its size */
} cps_shards_options;
extern const cps_option cps_shards_rows[];

/* A stream: one set, or a weighted mixture of several. */
typedef struct cps_stream_options {
    const char *name; /* "paired" */
    int64_t set_count;
    cps_shards_options *sets;
    int64_t epoch_samples; /* of a mixture; 0: the sum of the sizes */
} cps_stream_options;
extern const cps_option cps_mixture_rows[];

typedef struct cps_tokenizer_options {
    const char *path;   /* the one of the next two that is given, or NULL: either may hold either */
    const char *merges; /* absolute path of a merges file (plain or gz), or NULL */
    const char *json;   /* absolute path of a Hugging Face tokenizer.json, or NULL */
    int64_t
        context; /* positions of a text, start and end included; 0: as the model's preset says */
} cps_tokenizer_options;
extern const cps_option cps_tokenizer_rows[];

/* A JSON array of strings into `out` (path NULL). */
cps_status cps_config_strings(const cps_json *array, const char *where, cps_arena *arena,
                              cps_lines *out) CPS_MUST_CHECK;
/* One set: an element of `mixture`, a stream, or the `data` of an evaluation. */
cps_status cps_shards_options_parse(const cps_json *object, const char *where, cps_arena *arena,
                                    cps_shards_options *out) CPS_MUST_CHECK;
/* The job's `data` object: streams sorted by name. */
cps_status cps_streams_parse(const cps_json *data, cps_arena *arena,
                             cps_stream_options **streams_out, int64_t *count_out) CPS_MUST_CHECK;
/* The job's `tokenizer` object (NULL: nothing given). */
cps_status cps_tokenizer_options_parse(const cps_json *object, cps_arena *arena,
                                       cps_tokenizer_options *out) CPS_MUST_CHECK;

#endif
