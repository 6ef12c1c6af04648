/* A file is published by: write under another name, fsync, rename, fsync the folder. Either the old
 * or the new whole file is there after a crash. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static cps_status fail_errno(const char *what, const char *path, int error) {
    const cps_status code = error == ENOENT || error == ENOTDIR ? CPS_ERR_UNAVAILABLE : CPS_ERR_IO;
    const char *advice = "";
    if (error == ENOSPC || error == EDQUOT) {
        advice = ": free some space or choose another folder";
    } else if (error == EACCES || error == EPERM || error == EROFS) {
        advice = ": check the permissions";
    } else if (code == CPS_ERR_UNAVAILABLE) {
        advice = ": check the path";
    }
    return cps_fail(code, "cannot %s '%s': %s%s", what, path, strerror(error), advice);
}

static void *must(void *memory) {
    CPS_BUG_IF(memory == NULL); /* names and messages are small: no memory for them is the end */
    return memory;
}

/* Reads up to `wanted` bytes (or to the end of the file); -1 with errno set. */
static ssize_t read_full(int file, char *bytes, size_t wanted) {
    size_t done = 0;
    while (done < wanted) {
        const ssize_t got = read(file, bytes + done, wanted - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -1;
        }
        if (got == 0) {
            break;
        }
        done += (size_t)got;
    }
    return (ssize_t)done;
}

/* The rest of an open file; works where the size is not known beforehand (pipes, /proc). */
static cps_status read_open(int file, const char *path, size_t max_bytes, char **bytes_out,
                            size_t *length_out) {
    struct stat facts;
    if (fstat(file, &facts) != 0) {
        return fail_errno("read", path, errno);
    }
    if (S_ISDIR(facts.st_mode)) {
        return cps_fail(CPS_ERR_USAGE, "'%s' is a folder, a file is wanted", path);
    }
    const size_t hint = S_ISREG(facts.st_mode) && facts.st_size > 0 ? (size_t)facts.st_size : 0;
    if (hint > max_bytes) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' has %zu bytes, at most %zu are read: is it the right file?", path,
                        hint, max_bytes);
    }
    size_t capacity = (hint > 0 ? hint : 65536) + 2;
    char *bytes = malloc(capacity);
    size_t length = 0;
    while (bytes != NULL) {
        const ssize_t got = read_full(file, bytes + length, capacity - 1 - length);
        if (got < 0) {
            const int error = errno;
            free(bytes);
            return fail_errno("read", path, error);
        }
        length += (size_t)got;
        if (length > max_bytes) {
            free(bytes);
            return cps_fail(CPS_ERR_DATA, "'%s' has more than %zu bytes, the most that are read",
                            path, max_bytes);
        }
        if (length < capacity - 1) {
            bytes[length] = '\0';
            *bytes_out = bytes;
            *length_out = length;
            return CPS_OK;
        }
        capacity *= 2;
        char *longer = realloc(bytes, capacity);
        if (longer == NULL) {
            free(bytes);
        }
        bytes = longer;
    }
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory reading '%s' (%zu bytes)", path, capacity);
}

cps_status cps_file_read(const char *path, size_t max_bytes, char **bytes_out, size_t *length_out) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return fail_errno("open", path, errno);
    }
    const cps_status status = read_open(file, path, max_bytes, bytes_out, length_out);
    close(file);
    return status;
}

/* 0, or the errno of the failure. */
static int write_full(int file, const char *bytes, size_t length) {
    while (length > 0) {
        const ssize_t done = write(file, bytes, length);
        if (done < 0 && errno != EINTR) {
            return errno;
        }
        if (done > 0) {
            bytes += done;
            length -= (size_t)done;
        }
    }
    return 0;
}

cps_status cps_file_write_atomic(const char *path, const void *bytes, size_t length) {
    char *temporary = cps_file_temporary_name(path);
    cps_status status;
    const int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) {
        status = fail_errno("create", temporary, errno);
        goto free_name;
    }
    int error = write_full(file, bytes, length);
    if (close(file) != 0 && error == 0) {
        error = errno;
    }
    if (error != 0) {
        unlink(temporary);
        status = fail_errno("write", path, error);
        goto free_name;
    }
    status = cps_file_publish(temporary, path);
free_name:
    free(temporary);
    return status;
}

cps_status cps_file_append(const char *path, const void *bytes, size_t length) {
    const int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) {
        return fail_errno("open", path, errno);
    }
    int error = write_full(file, bytes, length);
    if (close(file) != 0 && error == 0) {
        error = errno;
    }
    return error == 0 ? CPS_OK : fail_errno("append to", path, error);
}

char *cps_file_temporary_name(const char *path) {
    static _Atomic unsigned counter; /* makes names, nothing else */
    char host[256];
    if (gethostname(host, sizeof host) != 0) {
        strcpy(host, "host");
    }
    host[sizeof host - 1] = '\0';
    return cps_format("%s.tmp.%s.%ld.%u", path, host, (long)getpid(),
                      atomic_fetch_add(&counter, 1));
}

/* fsync of a file or folder; 0 or errno. Folders of some file systems cannot be synced: no error.
 */
static int sync_path(const char *path, bool folder) {
    const int file = open(path, O_RDONLY | O_CLOEXEC | (folder ? O_DIRECTORY : 0));
    if (file < 0) {
        return errno;
    }
    int error = fsync(file) == 0 ? 0 : errno;
    if (folder && (error == EINVAL || error == EROFS)) {
        error = 0;
    }
    close(file);
    return error;
}

cps_status cps_file_publish(const char *temporary, const char *path) {
    int error = sync_path(temporary, false);
    if (error == 0 && rename(temporary, path) != 0) {
        error = errno;
    }
    if (error != 0) {
        unlink(temporary);
        return fail_errno("write", path, error);
    }
    char *folder = cps_path_folder(path);
    error = sync_path(folder, true);
    free(folder);
    return error == 0 ? CPS_OK : fail_errno("sync the folder of", path, error);
}

cps_status cps_dir_create(const char *path) {
    char *partial = must(strdup(path));
    cps_status status = CPS_OK;
    for (char *at = partial; status == CPS_OK && *at != '\0'; at++) {
        const bool last = at[1] == '\0';
        if (!last && (at[1] != '/' || at[0] == '/')) {
            continue;
        }
        const char kept = at[1];
        at[1] = '\0';
        if (mkdir(partial, 0777) != 0) {
            const int error = errno; /* EROFS and the like for a parent that exists: not an error */
            if (!cps_dir_exists(partial)) {
                status = error == EEXIST
                             ? cps_fail(CPS_ERR_IO, "cannot create the folder '%s': '%s' is a file",
                                        path, partial)
                             : fail_errno("create the folder", path, error);
            }
        }
        at[1] = kept;
    }
    free(partial);
    return status;
}

bool cps_file_exists(const char *path) {
    struct stat facts;
    return stat(path, &facts) == 0 && !S_ISDIR(facts.st_mode);
}

bool cps_dir_exists(const char *path) {
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISDIR(facts.st_mode);
}

static int compare_paths(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static cps_status fail_no_match(const char *pattern) {
    char folder[PATH_MAX];
    if (getcwd(folder, sizeof folder) == NULL) {
        strcpy(folder, "?");
    }
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "no file matches '%s' (current folder: '%s'): check the path and the pattern",
                    pattern, folder);
}

cps_status cps_glob(const char *pattern, char ***paths_out, int64_t *count_out) {
    glob_t found;
    const int result = glob(pattern, GLOB_NOSORT | GLOB_ERR, NULL, &found);
    if (result == GLOB_NOMATCH) {
        return fail_no_match(pattern);
    }
    if (result != 0) {
        const int error = result == GLOB_NOSPACE ? ENOMEM : errno;
        globfree(&found);
        return fail_errno("list the files of", pattern, error);
    }
    char **paths = must(calloc(found.gl_pathc, sizeof *paths));
    for (size_t i = 0; i < found.gl_pathc; i++) {
        paths[i] = must(strdup(found.gl_pathv[i]));
    }
    qsort(paths, found.gl_pathc, sizeof *paths, compare_paths);
    *count_out = (int64_t)found.gl_pathc;
    *paths_out = paths;
    globfree(&found);
    return CPS_OK;
}

void cps_strings_destroy(char **strings, int64_t count) {
    if (strings == NULL) {
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        free(strings[i]);
    }
    free(strings);
}

char *cps_path_join(const char *base, const char *path) {
    if (path[0] == '/' || base[0] == '\0') {
        return must(strdup(path));
    }
    const bool slash = base[strlen(base) - 1] == '/';
    return cps_format("%s%s%s", base, slash ? "" : "/", path);
}

char *cps_path_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return must(strdup("."));
    }
    while (slash > path && slash[-1] == '/') {
        slash--;
    }
    return must(strndup(path, slash == path ? 1 : (size_t)(slash - path)));
}

char *cps_format(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = NULL;
    const int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    CPS_BUG_IF(length < 0);
    return text;
}

double cps_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
