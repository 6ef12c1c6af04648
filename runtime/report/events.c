/* One descriptor in append mode; a line is put together in memory and written at once. */
#include "report/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"

enum { MAX_FILE_BYTES = 1 << 30, TAIL_BYTES = 1 << 16 };

struct cps_events {
    char *path;
    int file;
};

static cps_status fail_events(const char *what, const char *path) {
    const int error = errno;
    return cps_fail(CPS_ERR_IO, "cannot %s '%s': %s%s", what, path, strerror(error),
                    error == ENOSPC ? ": free some space and resume the run" : "");
}

/* Cuts off what follows the last newline: a line that a killed process left unfinished. */
static cps_status cut_partial_line(int file, const char *path) {
    struct stat facts;
    if (fstat(file, &facts) != 0) {
        return fail_events("read", path);
    }
    off_t end = facts.st_size;
    char tail[TAIL_BYTES];
    while (end > 0) {
        const size_t wanted = end < TAIL_BYTES ? (size_t)end : TAIL_BYTES;
        const ssize_t got = pread(file, tail, wanted, end - (off_t)wanted);
        if (got != (ssize_t)wanted) {
            return fail_events("read", path);
        }
        const char *newline = memrchr(tail, '\n', wanted);
        if (newline != NULL) {
            end -= (off_t)wanted - (off_t)(newline - tail) - 1;
            break;
        }
        end -= (off_t)wanted;
    }
    if (end != facts.st_size && ftruncate(file, end) != 0) {
        return fail_events("cut the unfinished last line of", path);
    }
    return CPS_OK;
}

cps_status cps_events_open(const char *path, cps_events **events_out) {
    const int file = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) {
        return fail_events("open", path);
    }
    cps_status status = cut_partial_line(file, path);
    cps_events *events = status == CPS_OK ? malloc(sizeof *events) : NULL;
    if (events == NULL) {
        close(file);
        return status != CPS_OK ? status : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
    }
    *events = (cps_events){.path = cps_format("%s", path), .file = file};
    *events_out = events;
    return CPS_OK;
}

void cps_events_close(cps_events *events) {
    if (events != NULL) {
        close(events->file);
        free(events->path);
        free(events);
    }
}

cps_status cps_events_write(cps_events *events, const cps_json *event) {
    if (events == NULL) {
        return CPS_OK;
    }
    CPS_BUG_IF(cps_json_string(cps_json_get(event, "event")) == NULL);
    char *text = cps_json_print(event, false, false);
    char *line = cps_format("%s\n", text);
    free(text);
    const char *at = line;
    size_t left = strlen(line);
    cps_status status = CPS_OK;
    while (left > 0 && status == CPS_OK) { /* more than one round only when the disk fills up */
        const ssize_t done = write(events->file, at, left);
        if (done > 0) {
            at += done;
            left -= (size_t)done;
        } else if (errno != EINTR) {
            status = fail_events("append to", events->path);
        }
    }
    free(line);
    return status;
}

cps_status cps_events_resume(cps_events *events, int64_t step, const cps_json *more) {
    cps_json *event = cps_json_new_object();
    cps_json_add_string(event, "event", "resume");
    cps_json_add_number(event, "step", (double)step);
    for (const cps_json *at = cps_json_first(more); at != NULL; at = cps_json_next(at)) {
        cps_json_add_copy(event, cps_json_key(at), at);
    }
    const cps_status status = cps_events_write(events, event);
    cps_json_destroy(event);
    return status;
}

/* ---- reading ---- */

typedef struct line {
    cps_json *json; /* NULL: taken back, or done again later */
    uint64_t key;   /* of what a later line replaces; 0: nothing does */
} line;

/* Equal for two lines of which only the later one counts. */
static uint64_t line_key(const cps_json *event) {
    const char *kind = cps_json_get_string(event, "event", "");
    const bool is_step = strcmp(kind, "step") == 0;
    if (!is_step && strcmp(kind, "evaluation") != 0) {
        return 0;
    }
    const char *name = is_step ? "" : cps_json_get_string(event, "name", "");
    const char *stage = is_step ? "" : cps_json_get_string(event, "stage", "");
    char *text = cps_format("%s/%lld/%s/%s", kind,
                            (long long)cps_json_get_integer(event, "step", -1), name, stage);
    const uint64_t key = cps_hash64_text(text);
    free(text);
    return key != 0 ? key : 1;
}

static void drop(line *at) {
    cps_json_destroy(at->json);
    at->json = NULL;
}

static void take_back(line *lines, int64_t count, const cps_json *resume) {
    const double step = cps_json_get_number(resume, "step", -1.0);
    for (int64_t i = 0; i < count; i++) {
        if (lines[i].json != NULL && cps_json_get_number(lines[i].json, "step", -1.0) > step) {
            drop(&lines[i]);
        }
    }
}

static int compare_lines(const void *a, const void *b) {
    const line *const *left = a;
    const line *const *right = b;
    if ((*left)->key != (*right)->key) {
        return (*left)->key < (*right)->key ? -1 : 1;
    }
    return *left < *right ? -1 : *left > *right; /* by place in the file */
}

static void drop_repeated(line *lines, int64_t count) {
    line **order = malloc((size_t)(count + 1) * sizeof(line *));
    CPS_BUG_IF(order == NULL);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        if (lines[i].json != NULL && lines[i].key != 0) {
            order[kept++] = &lines[i];
        }
    }
    qsort(order, (size_t)kept, sizeof *order, compare_lines);
    for (int64_t i = 0; i + 1 < kept; i++) {
        if (order[i]->key == order[i + 1]->key) {
            drop(order[i]);
        }
    }
    free(order);
}

static int64_t count_newlines(const char *text, size_t length) {
    int64_t count = 0;
    for (size_t i = 0; i < length; i++) {
        count += text[i] == '\n';
    }
    return count;
}

/* Parses the whole lines of `text`; returns how many are JSON objects. */
static int64_t parse_lines(const char *text, size_t length, const char *path, line *lines,
                           int64_t *broken_out) {
    int64_t count = 0;
    const char *end = text + length, *newline;
    for (const char *at = text; (newline = memchr(at, '\n', (size_t)(end - at))) != NULL;
         at = newline + 1) {
        cps_json *json = NULL;
        if (cps_json_parse(at, (size_t)(newline - at), path, &json) != CPS_OK ||
            !cps_json_is_object(json)) {
            cps_json_destroy(json);
            cps_fail_clear();
            *broken_out += 1;
            continue;
        }
        if (strcmp(cps_json_get_string(json, "event", ""), "resume") == 0) {
            take_back(lines, count, json);
        }
        lines[count++] = (line){.json = json, .key = line_key(json)};
    }
    return count;
}

cps_status cps_events_read(const char *path, cps_json **array_out, int64_t *broken_out) {
    int64_t broken = 0, count = 0;
    cps_json *array = cps_json_new_array();
    if (cps_file_exists(path)) {
        char *text;
        size_t length;
        const cps_status status = cps_file_read(path, MAX_FILE_BYTES, &text, &length);
        line *lines = status == CPS_OK
                          ? calloc((size_t)count_newlines(text, length) + 1, sizeof *lines)
                          : NULL;
        if (lines == NULL) {
            cps_json_destroy(array);
            if (status == CPS_OK) {
                free(text);
            }
            return status != CPS_OK ? status : cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
        }
        count = parse_lines(text, length, path, lines, &broken);
        free(text);
        drop_repeated(lines, count);
        for (int64_t i = 0; i < count; i++) {
            if (lines[i].json != NULL) {
                cps_json_add_copy(array, NULL, lines[i].json);
                drop(&lines[i]);
            }
        }
        free(lines);
    }
    *array_out = array;
    if (broken_out != NULL) {
        *broken_out = broken;
    }
    return CPS_OK;
}
