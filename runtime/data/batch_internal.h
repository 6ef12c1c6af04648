/* Shared by batch.c (ring, threads), batch_plan.c (arithmetic, checks, memory) and batch_rows.c
 * (the work on a row); not for others. */
#ifndef CPS_DATA_BATCH_INTERNAL_H
#define CPS_DATA_BATCH_INTERNAL_H

#include <pthread.h>

#include "base/arena.h"
#include "data/batch.h"

enum { CPS_LOADER_MESSAGE = 600, CPS_MAX_ENCODED_BYTES = 256 << 20 };

/* Memory of one input in one slot. */
typedef struct cps_slot_input {
    uint8_t *pixels;
    int32_t *ids;     /* [rows, text_context], packed in place when the grain is complete */
    int32_t *offsets; /* [rows + 1] */
    int32_t *ends;    /* [rows] */
    uint8_t *cut;     /* [rows] */
    uint8_t *annotation;
} cps_slot_input;

/* Memory of one stream in one slot: what cps_stream_rows shows. */
typedef struct cps_slot_stream {
    uint64_t *sample_ids, *epochs, *positions;
    cps_place *places;
    uint8_t *valid;
    cps_bad_image *bad; /* [rows]; reason "": none */
} cps_slot_stream;

/* One grain on its way. Rows are worked on by any thread, each by one; `left` and the failure move
 * under the lock. */
typedef struct cps_slot {
    int64_t data_step, grain, padded;
    int64_t clock_rows; /* of this grain; less than the others' in a kept tail */
    int64_t left;       /* rows not finished yet, over all streams */
    bool complete;      /* packed for the caller */
    cps_slot_stream *streams;
    cps_slot_input *inputs;
    cps_status failure; /* of the row with the least number, so that timing does not choose */
    int64_t failed_row;
    char message[CPS_LOADER_MESSAGE];
    cps_batch batch;
    cps_stream_rows *stream_rows;
    cps_input_rows *input_rows;
    cps_bad_image *bad; /* the list handed out */
} cps_slot;

/* What one thread works with. */
typedef struct cps_worker {
    struct cps_loader *loader;
    uint8_t *encoded; /* encoded_bytes */
    cps_text *texts;  /* [input_count]: those of TEXT inputs are used */
    pthread_t thread;
} cps_worker;

struct cps_loader {
    cps_loader_options options; /* with our own copies of streams and inputs */
    int64_t records;            /* STORED: of the stream */
    int64_t epoch_steps;
    int64_t steps;         /* 0: no end */
    int64_t encoded_bytes; /* largest encoded image that is read */
    cps_arena *memory;
    cps_slot *slots;
    int64_t slot_count;
    cps_worker *workers; /* [threads + 1]; the last one is the caller's */

    pthread_mutex_t lock;
    pthread_cond_t work_there, row_done;
    bool ending, sought, owns_options;
    int32_t started;               /* threads that run */
    int64_t in_flight;             /* rows being worked on */
    int64_t next_step, next_grain; /* grain to be opened next */
    int64_t opened,
        freed;        /* numbers of grains since the seek: slots freed .. opened-1 are in use */
    int64_t open_row; /* next row of the slot opened last, counted over its streams; -1: none */
    int64_t current_step, current_opened; /* the caller's step, number of its first grain */
    double wait_seconds;
};

/* Rows of a stream in a grain. */
int64_t cps_slot_rows(const cps_loader *loader, const cps_slot *slot, int32_t stream);
/* Places all arrays of loader in its arena, or counts them. */
cps_status cps_loader_layout(cps_loader *loader) CPS_MUST_CHECK;
/* Checks options and fills what follows from them: records, epoch_steps, slot_count, encoded_bytes.
 */
cps_status cps_loader_plan(const cps_loader_options *options, cps_loader *loader) CPS_MUST_CHECK;
/* Does row `row` of `stream`; a failure is recorded on this thread. */
cps_status cps_row_work(cps_worker *worker, cps_slot *slot, int32_t stream,
                        int64_t row) CPS_MUST_CHECK;
/* Packs texts, gathers bad images, fills the batch. */
void cps_slot_complete(const cps_loader *loader, cps_slot *slot);

#endif
