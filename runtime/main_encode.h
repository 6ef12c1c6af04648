/* What `copse predict` and `copse embed` share: pictures and preprocessing of the command line, the
 * record of what was done. */
#ifndef CPS_MAIN_ENCODE_H
#define CPS_MAIN_ENCODE_H

#include "main.h"

#include "base/json.h"
#include "data/pictures.h"
#include "eval/encoder.h"
#include "model/tower.h"

/* Rows of flag tables: both commands take these. */
#define CPS_ENCODE_FLAGS                                                                           \
    {"list", 0, "FILE", "pictures from a file, one path a line; - reads standard input"},          \
        {"preset", 0, "NAME", "sizes of plain weights: ViT-B-32, ViT-B-16, ViT-L-14, ..."},        \
        {"resize", 0, "NAME", "crop or squash, in place of what the checkpoint says"},             \
        {"interpolation", 0, "NAME", "bicubic or bilinear, in place of what the checkpoint says"}, \
        {"mean", 0, "R,G,B", "mean of the channels, in place of what the checkpoint says"},        \
        {"std", 0, "R,G,B", "deviation of the channels, in place of what the checkpoint says"},    \
        {"precision", 0, "NAME", "fp32, bf16 or auto (default: fp32)"},                            \
        {"threads", 't', "T",                                                                      \
         "compute threads of each rank (default: SLURM_CPUS_PER_TASK, else its cores)"},           \
    {                                                                                              \
        "log", 0, "FILE",                                                                          \
            "what was done and with what: a new .json file, or text added to any other"            \
    }

/* ---- record ---- */

/* What was done and with what: said on the log, kept for --log. */
typedef struct cps_main_record {
    const char *path; /* NULL: no --log */
    bool root;
    cps_json *json;       /* { version, command, start, settings, ... } */
    cps_json *settings;   /* inside */
    cps_json *unreadable; /* inside */
    int64_t unreadable_count;
} cps_main_record;

/* USAGE: a .json file that is there already. Equal on all ranks; the caller agrees. */
cps_status cps_main_record_open(const cps_app *app, cps_main_record *record_out) CPS_MUST_CHECK;
/* A setting: "key: value" on the log. */
void cps_main_record_fact(cps_main_record *record, const char *key, const char *format, ...)
    CPS_PRINTF(3, 4);
/* Rank 0: a picture that was left out. */
void cps_main_record_unreadable(cps_main_record *record, const char *path, const char *reason);
/* Writes it, on rank 0. outcome: "done", or why it ended. done: pictures, of those in `list`. */
cps_status cps_main_record_close(cps_main_record *record, const char *outcome,
                                 const cps_picture_list *list, int64_t done) CPS_MUST_CHECK;
void cps_main_record_free(cps_main_record *record); /* safe on a zeroed one */

/* ---- pictures, preprocessing ---- */

/* Collective. Operands from `first` on, then --list. USAGE: none. */
cps_status cps_main_pictures(const cps_app *app, int32_t first,
                             cps_picture_list *list_out) CPS_MUST_CHECK;
/* Rows of a forward pass: --batch, no more than there are pictures. */
cps_status cps_main_batch(const cps_app *app, int64_t pictures, int64_t *batch_out) CPS_MUST_CHECK;
/* The encoder's evaluation preprocessing with what the command line puts in its place; recorded. */
cps_status cps_main_recipe(const cps_app *app, const cps_encoder *encoder, cps_main_record *record,
                           cps_recipe *recipe_out) CPS_MUST_CHECK;
/* Collective. Threads and precision; before anything is computed. cps_pool_stop at the end. */
cps_status cps_main_machine(const cps_app *app, cps_main_record *record) CPS_MUST_CHECK;
/* A tower's sizes, recorded. */
void cps_main_record_tower(cps_main_record *record, const char *path,
                           const cps_tower_config *config, uint64_t digest);
/* Collective. How a pass ended after `done` pictures: all of them, with how many were `what`
 * ("encoded") on the log; ENDED: a signal came, `lost` says what became of the output; DATA: none
 * could be read. Equal on all ranks. */
cps_status cps_main_judge(const cps_app *app, const cps_main_record *record, int64_t pictures,
                          int64_t done, double start, const char *what,
                          const char *lost) CPS_MUST_CHECK;
/* Rank 0: "pictures 12/100  3.4 pictures/s" while it goes. */
void cps_main_show_progress(int64_t done, int64_t total, double start);

#endif
