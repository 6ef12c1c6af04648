/* What the runners of golden vectors share: judging, printing, the exit code. One line a case,
 *     CASE<TAB>ERROR<TAB>TOLERANCE<TAB>ok|FAIL|skip
 * and "N passed, N failed, N skipped" at the end. ERROR = max|a - b| / max(max|b|, floor) with
 * floor 1e-6 unless said otherwise; NaN where none is wanted, or the other way round, is an
 * infinite error. Integers and texts are exact. State is the process's own (one runner, one tally);
 * ranks other than 0 of a runner under MPI call vectors_mute.
 *
 *     int main(int argc, char **argv)
 *     {
 *         cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
 *         vectors_expect(file, "gelu/loss", got, 1, vectors_tolerance(1e-10, 2e-5));
 *         cps_h5_close(file);
 *         return vectors_finish();
 *     }
 */
#ifndef CPS_TESTS_VECTORS_H
#define CPS_TESTS_VECTORS_H

#include "base/types.h"
#include "h5/h5.h"

/* Exit codes: 0 something passed and nothing failed, 1 a FAIL, 2 wrong use, unreadable file, no
 * case. */
enum { VECTORS_OK = 0, VECTORS_FAILED = 1, VECTORS_UNUSABLE = 2 };

/* Checks the number of arguments (without the program's name) and opens argv[1]; ends the process
 * with VECTORS_UNUSABLE and a sentence on stderr otherwise. */
cps_h5 *vectors_open(int argc, char **argv, int least, int most, const char *usage);
/* Ends the process with VECTORS_UNUSABLE; prints the sentence. */
_Noreturn void vectors_unusable(const char *format, ...) CPS_PRINTF(1, 2);
/* This process counts but prints nothing (ranks above 0). */
void vectors_mute(void);
/* The closing line; returns the exit code. Call once. */
int vectors_finish(void);
/* `end` is called by vectors_finish, last given first; vectors_end does that alone. */
void vectors_at_finish(void (*end)(void));
void vectors_end(void);
/* A case line of another process of this runner: shown as it is, counted. */
void vectors_take_line(const char *line, bool ok, bool skip);

/* The tolerance of this build: the first for double, the second for float. */
double vectors_tolerance(double in_double, double in_float);
/* From here on errors are divided by this at least, in place of 1e-6 (s-clip: 1). */
void vectors_set_floor(double floor);

/* One case from a number that the caller computed. A NaN error fails. */
void vectors_judge(const char *name, double error, double tolerance);
/* A case that could not be computed: FAIL with an infinite error, the reason on stderr. */
void vectors_broken(const char *name, double tolerance, const char *format, ...) CPS_PRINTF(3, 4);
/* A case that this runner does not know or cannot run; the reason goes to stderr. */
void vectors_skip(const char *name, const char *reason);

/* max|got - want| / max(max|want|, floor). */
double vectors_error(const double *got, const double *want, int64_t count, double floor);
double vectors_error_real(const cps_real *got, const double *want, int64_t count, double floor);
void vectors_compare(const char *name, const double *got, const double *want, int64_t count,
                     double tolerance);
void vectors_compare_real(const char *name, const cps_real *got, const double *want, int64_t count,
                          double tolerance);
void vectors_compare_i64(const char *name, const int64_t *got, const int64_t *want, int64_t count);
void vectors_compare_text(const char *name, const char *got, const char *want);

/* The same against dataset `name` of `file`, which is the case's name; a missing dataset, another
 * type or another number of elements is a FAIL. */
void vectors_expect(cps_h5 *file, const char *name, const double *got, int64_t count,
                    double tolerance);
void vectors_expect_real(cps_h5 *file, const char *name, const cps_real *got, int64_t count,
                         double tolerance);
void vectors_expect_i64(cps_h5 *file, const char *name, const int64_t *got, int64_t count);

/* For comparisons of one's own: the values of a case, malloc'ed; NULL after counting a FAIL where
 * the dataset is missing or holds another number of elements. And the error with the floor of now.
 */
double *vectors_wanted(cps_h5 *file, const char *name, int64_t count, double tolerance);
double vectors_error_now(const double *got, const double *want, int64_t count);

/* Objects below `group` ("" or "/": of the file) that no call above or below has named become
 * skips: one for a group of which nothing was named, else one for each dataset. Call when all is
 * done. */
void vectors_skip_unknown(cps_h5 *file, const char *group);
/* Says that `name` was looked at, where it was not read or expected by a call of this header. */
void vectors_know(const char *name);

/* Whole datasets, malloc'ed; NULL (the failure is on record) when absent, of another type or above
 * 1 GiB. */
double *vectors_read(cps_h5 *file, const char *name, int64_t *count_out);
cps_real *vectors_read_real(cps_h5 *file, const char *name, int64_t *count_out);
int64_t *vectors_read_i64(cps_h5 *file, const char *name, int64_t *count_out);

#endif
