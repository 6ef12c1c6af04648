/* Files and folders: whole-file reads, atomic writes (temporary name, fsync, rename), globs,
 * temporary names. Messages carry path and errno text. Local. */
#ifndef CPS_BASE_FILE_H
#define CPS_BASE_FILE_H

#include "base/status.h"

/* Whole file, NUL-terminated; free() the result. DATA when larger than max_bytes. */
cps_status cps_file_read(const char *path, size_t max_bytes, char **bytes_out,
                         size_t *length_out) CPS_MUST_CHECK;
cps_status cps_file_write_atomic(const char *path, const void *bytes, size_t length) CPS_MUST_CHECK;
cps_status cps_file_append(const char *path, const void *bytes, size_t length) CPS_MUST_CHECK;
/* "<path>.tmp.<host>.<pid>.<counter>", malloc'ed. */
char *cps_file_temporary_name(const char *path);
/* fsync file and folder, then rename. Removes `temporary` on failure. */
cps_status cps_file_publish(const char *temporary, const char *path) CPS_MUST_CHECK;
cps_status cps_dir_create(const char *path) CPS_MUST_CHECK; /* with parents; existing is fine */
bool cps_file_exists(const char *path);
bool cps_dir_exists(const char *path);
/* Paths that match `pattern` (glob(3)), sorted by bytes. UNAVAILABLE if none, naming pattern and
 * current folder. */
cps_status cps_glob(const char *pattern, char ***paths_out, int64_t *count_out) CPS_MUST_CHECK;
void cps_strings_destroy(char **strings, int64_t count);
/* `path` itself if absolute, else "<base>/<path>"; malloc'ed. */
char *cps_path_join(const char *base, const char *path);
/* Folder part of a path ("." if none), malloc'ed. */
char *cps_path_folder(const char *path);
/* printf into malloc'ed memory; out of memory is a panic. */
char *cps_format(const char *format, ...) CPS_PRINTF(1, 2);
/* Seconds of a monotonic clock. */
double cps_seconds(void);

#endif
