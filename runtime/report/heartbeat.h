/* heartbeat.json: what a run is doing now, one small file that `copse status` and batch scripts
 * read. Rank 0 writes it whole under another name and renames it: at the start, every few seconds
 * while work goes on, at each end. Its age is its mtime, so clocks of other nodes do not matter.
 * README.md beside this file lists the members. Nothing of it reaches numbers or checkpoints. A
 * write that fails warns once and never ends a run; no call here touches the record of the last
 * failure. All calls take NULL (ranks that do not write, evaluations without a run). Local, main
 * thread. */
#ifndef CPS_REPORT_HEARTBEAT_H
#define CPS_REPORT_HEARTBEAT_H

#include "base/json.h"

typedef struct cps_heartbeat cps_heartbeat;

enum { CPS_HEARTBEAT_SECONDS = 5 }; /* between two beats, at least */

typedef enum cps_heartbeat_state {
    CPS_BEAT_STARTING,
    CPS_BEAT_RUNNING,
    CPS_BEAT_EVALUATING,
    CPS_BEAT_CHECKPOINTED, /* ended by a signal, to be continued */
    CPS_BEAT_STOPPED,      /* ended where --until asked */
    CPS_BEAT_DONE,
    CPS_BEAT_FAILED
} cps_heartbeat_state;

/* Facts of this process, for the whole session. Borrowed during the call. */
typedef struct cps_heartbeat_session {
    const char *run;   /* name */
    const char *hosts; /* of the ranks: "n01*4 n02*4" */
    int32_t ranks, threads;
    bool fresh; /* the folder as it is will be moved aside: leave it alone until then */
} cps_heartbeat_session;

/* Where the run stands. NaN: unknown. */
typedef struct cps_heartbeat_place {
    const char *stage;            /* name; borrowed during the call */
    int64_t stage_number, stages; /* from 1 */
    int64_t step, steps;          /* of the run, over all stages */
    int64_t epoch, epochs;        /* from 1, of the stage; epochs 0: not counted */
    double loss, samples_per_second, eta_seconds;
    int64_t skipped, bad_images;
} cps_heartbeat_place;

/* Writes "starting" into `folder`, which is made where it is missing. A record that is there is
 * left alone until cps_heartbeat_enter when it says that the run is done or belongs to a process
 * that lives, or with `fresh`: an attempt that is refused must not hide it. */
cps_heartbeat *cps_heartbeat_open(const char *folder, const cps_heartbeat_session *session);
void cps_heartbeat_close(cps_heartbeat *beat);
/* The run is ours from here on and stands at `step`; results of the sessions before that lie at or
 * before it are kept. */
void cps_heartbeat_enter(cps_heartbeat *beat, int64_t step);
/* After each step: writes when the time has come, and the first one. */
void cps_heartbeat_step(cps_heartbeat *beat, const cps_heartbeat_place *place);
/* What is done now: NULL for training, else "evaluating rsicd", "features of frozen views".
 * evaluating: as a state of its own. Writes when the time has come. */
void cps_heartbeat_doing(cps_heartbeat *beat, bool evaluating, const char *doing);
/* A sign of life inside of long work: writes when the time has come. */
void cps_heartbeat_alive(cps_heartbeat *beat);
/* Result of an evaluation. Borrowed during the call. */
typedef struct cps_heartbeat_result {
    const char *name, *stage;
    int64_t step;
    const cps_json *metrics; /* numbers alone are kept */
    const char *metric;      /* key that stands for the evaluation; NULL: none */
    bool is_main;            /* and the evaluation for the run, from now on */
} cps_heartbeat_result;
void cps_heartbeat_evaluation(cps_heartbeat *beat, const cps_heartbeat_result *result);
void cps_heartbeat_checkpoint(cps_heartbeat *beat, int64_t step);
/* The end: always written, and synced. `message`: of a failure, else NULL. */
void cps_heartbeat_end(cps_heartbeat *beat, cps_heartbeat_state state, int exit_code,
                       const char *message);

/* Time that process `pid` of this machine started, in clock ticks since it booted; -1: there is no
 * such process. */
int64_t cps_process_start(int64_t pid);

#endif
