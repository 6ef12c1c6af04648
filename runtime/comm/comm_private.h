/* Inside of cps_comm, for the files of comm/ alone. */
#ifndef CPS_COMM_COMM_PRIVATE_H
#define CPS_COMM_COMM_PRIVATE_H

#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>

#include "comm/comm.h"

enum { CPS_HOST_BYTES = 64, CPS_PLACE_BYTES = 128, CPS_PIECE_BYTES = 1 << 30 };

/* Where this rank is; written by the main thread, read by the watchdog. */
typedef struct cps_whereabouts {
    char place[CPS_PLACE_BYTES]; /* of the collective under way, or of the last one */
    char stage[CPS_PLACE_BYTES]; /* of the local work, as cps_comm_set_stage named it */
    double since;                /* cps_seconds of the last sign of life */
    bool inside;                 /* a collective is under way */
} cps_whereabouts;

struct cps_comm {
    MPI_Comm world;    /* collectives and our own small messages */
    MPI_Comm transfer; /* cps_exchange of users: their tags */
    MPI_Comm gather;   /* cps_pending_gather */
    int32_t rank, size, local_rank, local_size;
    char (*hosts)[CPS_HOST_BYTES]; /* [size] */
    int *counts, *offsets;         /* [size], of MPI_Allgatherv */
    int64_t *bytes;                /* [size], of canonical sums, and what follows */
    int64_t *first_part;           /* [size + 1] */
    int32_t *node_counts;          /* [size] */
    struct cps_node_run *runs;     /* [size * CPS_MAX_RUNS] */
    double *workspace;             /* at least one double a run */
    int64_t workspace_count;
    size_t piece_bytes; /* most bytes in one MPI call: CPS_PIECE_BYTES, less in tests */
    uint64_t sent, received;
    cps_status agreed_code;

    int32_t *answers;             /* [size] rank 0: what each rank said in an agreement */
    MPI_Request *requests;        /* [size] */
    int *done;                    /* [size] */
    atomic_bool *arrived;         /* [size] whom this rank does not wait for, for the watchdog: in
                                     agreements rank 0 knows, in exchanges every rank */
    atomic_bool counting_arrived; /* the flags above are in use */

    pthread_mutex_t lock; /* of `where` */
    cps_whereabouts where;
    pthread_t watchdog;
    pthread_cond_t watchdog_wake;
    bool watchdog_on, watchdog_quit; /* under `lock` */
    double watchdog_seconds;
    void (*beat_tell)(
        void *context); /* main thread: who else wants to know of beats; NULL: nobody */
    void *beat_context;

    cps_pending_gather *spare_gathers; /* ended ones, kept for reuse */
    int32_t gather_tag;

    char fault_site[32]; /* "" without CPS_FAULT */
    int64_t fault_rank, fault_step;
};

/* Around every collective: tells the watchdog. Not to be nested. */
void cps_comm_enter(cps_comm *comm, const char *place);
void cps_comm_leave(cps_comm *comm);
/* A sign of life: work goes on. */
void cps_comm_alive(cps_comm *comm);
/* Ends all ranks if an MPI call failed. */
void cps_comm_check(cps_comm *comm, int result, const char *call);
/* Bytes of a length's next piece. */
int cps_comm_piece(const cps_comm *comm, size_t length);
/* Frees the ended gathers kept for reuse. */
void cps_gather_free_spares(cps_comm *comm);

/* agree.c: prints "rank r (host): text" and ends all ranks with exit code 70. Any thread. */
_Noreturn void cps_comm_abort(const cps_comm *comm, const char *text);
void cps_agree_install_panic(cps_comm *comm); /* NULL: takes the hook away */
cps_status cps_fault_parse(cps_comm *comm, const char *text);

#endif
