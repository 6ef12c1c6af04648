/* A model ready to encode pictures and texts outside of any run, for copse predict and embed: by
 * its towers alone, or as a job's objective sees them. Local unless said otherwise; one thread. */
#ifndef CPS_TRAIN_SCORER_H
#define CPS_TRAIN_SCORER_H

#include "data/tokenize.h"
#include "eval/encoder.h"
#include "model/model.h"
#include "train/loop.h"

typedef struct cps_scorer cps_scorer;

/* One output ("pooled", "projected", "feature") of an image tower. batch: pictures of a call. The
 * model is borrowed until destroy. USAGE: no such tower or output. */
cps_status cps_scorer_create(cps_model *model, const char *tower, const char *output, int64_t batch,
                             cps_scorer **scorer_out) CPS_MUST_CHECK;
/* Adds the features of the model's text tower. USAGE: it has none, or of another width. */
cps_status cps_scorer_add_texts(cps_scorer *scorer, const cps_tokenizer *tokenizer) CPS_MUST_CHECK;
/* Collective. Both sides as the `embed` of the job's objective makes them: that of the stage in
 * which the checkpoint stands. Opens all that the job names, data included. */
cps_status cps_scorer_create_of_job(cps_comm *comm, cps_plugins *plugins, const cps_json *job,
                                    const cps_job_calls *calls, const char *checkpoint,
                                    const cps_run_options *options, int64_t batch,
                                    cps_scorer **scorer_out) CPS_MUST_CHECK;
void cps_scorer_destroy(cps_scorer *scorer); /* NULL-safe */

/* Borrowed. Pictures; texts, NULL where there are none or after cps_scorer_drop_texts. */
const cps_encoder *cps_scorer_images(const cps_scorer *scorer);
const cps_encoder *cps_scorer_texts(const cps_scorer *scorer);
/* Frees what encoding texts takes. */
void cps_scorer_drop_texts(cps_scorer *scorer);
cps_model *cps_scorer_model(const cps_scorer *scorer);
/* Of all parameters. */
uint64_t cps_scorer_digest(const cps_scorer *scorer);
/* Of a job; NULL otherwise. */
const char *cps_scorer_objective(const cps_scorer *scorer);
/* Of the texts; NULL where there are none. */
const cps_tokenizer *cps_scorer_tokenizer(const cps_scorer *scorer);

#endif
