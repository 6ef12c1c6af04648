/* provenance.json: where numbers come from: versions, machine, BLAS kernels, command line, Slurm
 * job, digests of what was read. Nothing of it enters a checkpoint. A resumed run appends another
 * entry to "sessions" and keeps the earlier ones. Rank 0 writes. Local. */
#ifndef CPS_REPORT_PROVENANCE_H
#define CPS_REPORT_PROVENANCE_H

#include "base/json.h"

typedef struct cps_provenance_fact {
    const char *key, *value;
} cps_provenance_fact;

typedef struct cps_provenance {
    const char *copse_version;
    const char *mpi_version, *hdf5_version, *blas_version; /* NULL: unknown */
    const char *blas_core;                                 /* kernel family in use */
    const char *precision;
    int32_t ranks, threads;
    int64_t start_step; /* 0, or what was resumed from */
    int argc;
    char *const *argv;
    const char *hosts;                  /* of the ranks, "n01*4 n02*4"; NULL: this host */
    const cps_provenance_fact *digests; /* "data.paired" -> hexadecimal digest */
    int64_t digest_count;
    const cps_json *run; /* members of the file itself, in place of those of earlier sessions; NULL:
                            none */
    const cps_provenance_fact *facts; /* whatever else: "other_bits" -> "cpu: Haswell -> Zen" */
    int64_t fact_count;
} cps_provenance;

cps_status cps_provenance_write(const char *path, const cps_provenance *provenance) CPS_MUST_CHECK;
/* Model name of this machine's CPU ("AMD EPYC 9355 ..."), "unknown" where the system does not tell.
 */
const char *cps_cpu_model(char buffer[128]);

#endif
