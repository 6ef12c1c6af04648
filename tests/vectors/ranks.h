/* Cases that several real ranks compute together: the runner starts mpirun on itself, one group of
 * the file at a time, and takes the case lines of rank 0 over into its own tally. A group that does
 * not come to its end is a FAIL with the reason on stderr.
 *
 *     int main(int argc, char **argv)
 *     {
 *         vectors_rank_main(argc, argv, body);          (does not return in a started process)
 *         cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
 *         vectors_run_ranks(file, "clip_w4", 4);        (before the first vectors_comm)
 *         ... vectors_comm() ...
 *         return vectors_finish();
 *     }
 */
#ifndef CPS_TESTS_VECTORS_RANKS_H
#define CPS_TESTS_VECTORS_RANKS_H

#include "comm/comm.h"
#include "vectors.h"

enum { VECTORS_MOST_RANKS = 8 };

/* The ranks of this process: alone, or what vectors_run_ranks started. Collective; MPI starts with
 * the first call and ends with vectors_finish. */
cps_comm *vectors_comm(void);

/* What the ranks of `group` do; all cases are judged on rank 0, the others are mute. */
typedef void (*vectors_group_body)(cps_h5 *file, const char *group);
/* First thing in main: a process that vectors_run_ranks started runs `body` and ends. */
void vectors_rank_main(int argc, char **argv, vectors_group_body body);
/* `group` of the file, which is `file`'s, on `ranks` processes of this program. More than
 * VECTORS_MOST_RANKS, or none: a skip. Local; MPI must not have been started. */
void vectors_run_ranks(cps_h5 *file, const char *group, int64_t ranks);
/* W of a group named "<prefix>W"; 0: the name is not of that kind. */
int64_t vectors_ranks_of(const char *group, const char *prefix);

#endif
