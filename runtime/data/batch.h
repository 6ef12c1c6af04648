/* The loader: threads that read, decode, augment and tokenise the grains of this rank ahead of the
 * step. What a grain holds is a pure function of seed, stage, streams, inputs and (data step,
 * grain); threads and timing never enter. Images stay 8-bit RGB in the loader (a quarter of the
 * memory); cps_batch_planes writes them normalised where the caller wants them, at each forward and
 * replay.
 *
 * Order of use, by one thread (the one that owns cps_parallel):
 *   - cps_loader_create, then cps_loader_seek to the first data step;
 *   - in each data step, for any of this rank's grains, in any order, once or again,
 *     cps_loader_grain gives a borrowed batch;
 *   - cps_loader_release_step when the step is through with all of them.
 *
 * Two orders. SHUFFLED: training; bad images are replaced. STORED: evaluation, cached views;
 * records in stored order, one step (data step 0) of ceil(records / rows) grains, each its own
 * part; a grain is borrowed until the next is asked for; the tail is padded and masked; bad images
 * are masked out, never replaced; without a caption callback the first caption is taken.
 *
 * Memory is taken at creation (cps_loader_bytes tells how much before); decoding takes and frees
 * what the image library needs. No call is collective: an error is this rank's, the caller agrees.
 */
#ifndef CPS_DATA_BATCH_H
#define CPS_DATA_BATCH_H

#include "data/augment.h"
#include "data/stream.h"
#include "data/tokenize.h"

/* ---- what callbacks see ------------------------------------------------------------------- */

/* A growing, NUL-terminated string. Zero-initialise; cps_text_free at the end. */
typedef struct cps_text {
    char *bytes; /* NULL while empty and never set */
    size_t length, capacity;
} cps_text;
cps_status cps_text_set(cps_text *text, const char *value) CPS_MUST_CHECK;
cps_status cps_text_append(cps_text *text, const char *value) CPS_MUST_CHECK;
void cps_text_free(cps_text *text); /* NULL-safe */

/* A record at its place in the run. Borrowed during the callback. */
typedef struct cps_sample {
    const cps_shard *shard;
    int64_t record;
    uint64_t sample_id;
    const char *caption_field;
    bool first_caption; /* stored order: cps_sample_caption takes the first */
    bool fixed_caption; /* else: one for all times */
    int64_t data_step;  /* of the stage */
    int64_t row;        /* of the stream's rows in the global batch of this step */
    cps_draw_key key; /* seed, stage, stream, epoch, position, view of the input; crop and module 0:
                         the callback sets module */
} cps_sample;
int64_t cps_sample_text_count(const cps_sample *sample,
                              const char *field); /* 0: no such field or no text */
const char *cps_sample_text(const cps_sample *sample, const char *field,
                            int64_t which);                  /* NULL if absent */
int32_t cps_sample_label(const cps_sample *sample);          /* -1: none */
const char *cps_sample_class_name(const cps_sample *sample); /* NULL: none */
/* The default caption: one of the record's, drawn uniformly by the key, or, where the set says so,
 * by seed and sample id alone; "" for a record without. */
const char *cps_sample_caption(const cps_sample *sample);

/* ---- what a loader is asked for ----------------------------------------------------------- */

typedef enum cps_input_kind {
    CPS_INPUT_IMAGE,
    CPS_INPUT_TEXT,
    CPS_INPUT_ANNOTATION
} cps_input_kind;

/* Callbacks run on loader threads, several at once: reentrant, no state. A failing one fails the
 * grain. */
typedef cps_status (*cps_caption_fn)(void *context, const cps_sample *sample, cps_text *text_out);
typedef cps_status (*cps_annotate_fn)(void *context, const cps_sample *sample, const char *text,
                                      void *row_out);

typedef struct cps_input_spec {
    cps_input_kind kind;
    int32_t stream;         /* index into the loader's streams */
    uint32_t view, crop;    /* draw key */
    cps_recipe recipe;      /* IMAGE */
    cps_caption_fn caption; /* TEXT: NULL: cps_sample_caption */
    void *caption_context;
    int64_t text_context; /* TEXT: longest row in ids, 2 or more */
    bool all_positions; /* TEXT: every row padded with zeros to text_context; else packed up to the
                           end id */
    cps_annotate_fn annotate; /* ANNOTATION: fills row_bytes bytes, zeroed before */
    void *annotate_context;
    int64_t row_bytes;
    int32_t text_input; /* ANNOTATION: index of the TEXT input of the same stream whose text it
                           gets; -1: NULL */
} cps_input_spec;

typedef struct cps_loader_stream {
    const cps_stream *stream;
    int64_t rows; /* a grain; streams[0] is the clock */
} cps_loader_stream;

typedef enum cps_loader_order { CPS_ORDER_SHUFFLED, CPS_ORDER_STORED } cps_loader_order;

typedef struct cps_loader_options {
    cps_loader_order order;
    const cps_loader_stream *streams; /* copied, as are the inputs */
    int32_t stream_count;
    const cps_input_spec *inputs;
    int32_t input_count;
    const cps_tokenizer *tokenizer; /* NULL without TEXT inputs */
    uint64_t seed;
    uint32_t stage;
    int64_t grains; /* G of a full step. STORED: ignored, follows the stream */
    int64_t parts;  /* P = min(grains of the step, parts); STORED: ignored, every grain is a part */
    int64_t rank, world_size;
    bool keep_tail;  /* an epoch ends with a step of fewer grains, the last one short; else it is
                        dropped */
    int64_t steps;   /* data steps of the stage, nothing is read beyond; 0: no end */
    bool single_use; /* a grain may be forgotten when the next is asked for (no replay, no kept
                        tapes); saves memory */
    int32_t threads; /* loader threads; 0: the caller's thread does the work when it asks */
    int64_t ahead;   /* grains prepared beyond those of the current step, >= 1 */
} cps_loader_options;

/* ---- arithmetic of steps, without a loader ------------------------------------------------ */

/* Steps that one epoch of a clock stream of `samples` positions has. */
int64_t cps_steps_per_epoch(int64_t samples, int64_t grains, int64_t rows, bool keep_tail);
/* Grains of data step d (fewer in a kept tail), rows of the clock in grain k of it. */
int64_t cps_step_grains(int64_t samples, int64_t grains, int64_t rows, bool keep_tail,
                        int64_t data_step);
int64_t cps_grain_rows(int64_t samples, int64_t grains, int64_t rows, bool keep_tail,
                       int64_t data_step, int64_t grain);
/* Grains [first, last) of a rank, of a step of `grains` grains in min(grains, parts) parts. */
void cps_rank_grains(int64_t grains, int64_t parts, int64_t world_size, int64_t rank,
                     int64_t *first_out, int64_t *last_out);

/* ---- batches ------------------------------------------------------------------------------ */

/* An image that was replaced (SHUFFLED) or masked out (STORED). */
typedef struct cps_bad_image {
    const cps_shard *shard;
    int64_t record; /* the damaged one */
    uint64_t sample_id;
    int64_t replaced_by; /* record of the same shard; -1: masked */
    int64_t row;         /* of the grain */
    int32_t stream;
    char reason[100];
} cps_bad_image;

/* The rows of one input in one grain. Borrowed until the step's release. */
typedef struct cps_input_rows {
    int64_t rows;
    const uint8_t *pixels; /* IMAGE: [rows, size, size, 3] */
    int32_t size;
    const int32_t
        *ids; /* TEXT: packed; offsets[rows + 1]; ends[rows]: position of the end id in its row */
    const int32_t *offsets;
    const int32_t *ends;
    int64_t truncated;      /* TEXT: rows that were cut to the context */
    const void *annotation; /* ANNOTATION: [rows, row_bytes], 16-byte aligned */
} cps_input_rows;

/* The rows of one stream in one grain. */
typedef struct cps_stream_rows {
    int64_t rows;
    const uint64_t *sample_ids;
    const cps_place *places;
    const uint64_t *epochs; /* with `positions`: the draw key's members */
    const uint64_t *positions;
    /* STORED: 0 for padding and for bad images (their pixels are 0); SHUFFLED: all 1. A padded row
     * has sample id 0. */
    const uint8_t *valid;
} cps_stream_rows;

typedef struct cps_batch {
    int64_t data_step, grain; /* global number of the grain in its step */
    int64_t padded;           /* STORED: rows beyond the last record */
    int32_t stream_count, input_count;
    const cps_stream_rows *streams;
    const cps_input_rows *inputs;
    const cps_bad_image *
        bad; /* rows whose image was bad, by stream and row; the same at every request of a grain */
    int64_t bad_count;
} cps_batch;

typedef struct cps_loader cps_loader;

/* Bytes that cps_loader_create takes. */
cps_status cps_loader_bytes(const cps_loader_options *options, size_t *bytes_out) CPS_MUST_CHECK;
/* USAGE for settings out of range. Starts the threads; nothing is read before the first seek. */
cps_status cps_loader_create(const cps_loader_options *options,
                             cps_loader **loader_out) CPS_MUST_CHECK;
void cps_loader_destroy(cps_loader *loader); /* NULL-safe; ends the threads */

/* Data step d comes next; what was prepared is forgotten. */
cps_status cps_loader_seek(cps_loader *loader, int64_t data_step) CPS_MUST_CHECK;
/* This rank's grains [first, last) of a data step. */
void cps_loader_range(const cps_loader *loader, int64_t data_step, int64_t *first_out,
                      int64_t *last_out);
/* Grains of the whole step. */
int64_t cps_loader_step_grains(const cps_loader *loader, int64_t data_step);
int64_t cps_loader_steps_per_epoch(const cps_loader *loader);

/* Waits for a grain of this rank. data_step is the current one (the seek's, or one after the last
 * release); asking for the next step releases the current one. The caller's thread helps while it
 * waits. What failed on a loader thread fails here, message included. */
cps_status cps_loader_grain(cps_loader *loader, int64_t data_step, int64_t grain,
                            const cps_batch **batch_out) CPS_MUST_CHECK;
/* The step's borrowed grains end; their buffers go to grains ahead. */
void cps_loader_release_step(cps_loader *loader, int64_t data_step);
/* IMAGE input -> planes_out [rows, 3, size, size], normalised by its recipe; on the pool's threads.
 */
void cps_batch_planes(const cps_loader *loader, const cps_batch *batch, int32_t input,
                      cps_real *planes_out);
/* Seconds that cps_loader_grain has waited or helped since creation: the loader's share of the
 * step. */
double cps_loader_wait_seconds(const cps_loader *loader);

#endif
