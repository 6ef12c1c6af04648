/* A note is its line of text; a line is known by its hash. Each rank keeps the hashes of what it
 * noted, rank 0 also of what is in the file. */
#include "report/quarantine.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "comm/agree.h"

enum { MAX_FILE_BYTES = 1 << 30 };

typedef struct hash_set {
    uint64_t *sorted;
    int64_t count, capacity;
} hash_set;

struct cps_quarantine {
    char *path;       /* NULL: nothing is written here */
    hash_set noted;   /* on this rank */
    hash_set written; /* in the file (rank 0) */
    char *pending;    /* lines since the last flush */
    size_t pending_bytes;
    int64_t total; /* lines of the file, as of the last flush on ranks above 0 */
};

/* True if it was not there yet. */
static bool set_add(hash_set *set, uint64_t hash) {
    int64_t low = 0, high = set->count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (set->sorted[middle] < hash) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < set->count && set->sorted[low] == hash) {
        return false;
    }
    if (set->count == set->capacity) {
        set->capacity = set->capacity * 2 + 64;
        uint64_t *longer = realloc(set->sorted, (size_t)set->capacity * sizeof *longer);
        CPS_BUG_IF(longer == NULL);
        set->sorted = longer;
    }
    memmove(set->sorted + low + 1, set->sorted + low,
            (size_t)(set->count - low) * sizeof *set->sorted);
    set->sorted[low] = hash;
    set->count++;
    return true;
}

static cps_status read_written(cps_quarantine *quarantine) {
    if (quarantine->path == NULL || !cps_file_exists(quarantine->path)) {
        return CPS_OK;
    }
    char *text;
    size_t length;
    CPS_TRY(cps_file_read(quarantine->path, MAX_FILE_BYTES, &text, &length));
    const char *end = text + length, *newline;
    for (const char *at = text; (newline = memchr(at, '\n', (size_t)(end - at))) != NULL;
         at = newline + 1) {
        set_add(&quarantine->written, cps_hash64(at, (size_t)(newline - at)));
    }
    quarantine->total = quarantine->written.count;
    /* A kill may have cut the last line: a newline of its own keeps the next one whole. */
    const bool cut = length > 0 && text[length - 1] != '\n';
    free(text);
    return cut ? cps_file_append(quarantine->path, "\n", 1) : CPS_OK;
}

cps_status cps_quarantine_create(const char *path, cps_quarantine **quarantine_out) {
    cps_quarantine *quarantine = calloc(1, sizeof *quarantine);
    if (quarantine == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
    }
    quarantine->path = path != NULL ? cps_format("%s", path) : NULL;
    const cps_status status = read_written(quarantine);
    if (status != CPS_OK) {
        cps_quarantine_destroy(quarantine);
        return status;
    }
    *quarantine_out = quarantine;
    return CPS_OK;
}

void cps_quarantine_destroy(cps_quarantine *quarantine) {
    if (quarantine != NULL) {
        free(quarantine->path);
        free(quarantine->noted.sorted);
        free(quarantine->written.sorted);
        free(quarantine->pending);
        free(quarantine);
    }
}

static char *note_line(const char *file, int64_t record, uint64_t sample_id, const char *reason) {
    cps_json *note = cps_json_new_object();
    cps_json_add_string(note, "file", file);
    cps_json_add_number(note, "record", (double)record);
    char *id = cps_format("%016llx", (unsigned long long)sample_id); /* exact in every reader */
    cps_json_add_string(note, "id", id);
    cps_json_add_string(note, "reason", reason);
    char *line = cps_json_print(note, false, false);
    free(id);
    cps_json_destroy(note);
    return line;
}

cps_status cps_quarantine_note(cps_quarantine *quarantine, const char *file, int64_t record,
                               uint64_t sample_id, const char *reason) {
    char *line = note_line(file, record, sample_id, reason);
    const size_t length = strlen(line);
    cps_status status = CPS_OK;
    if (set_add(&quarantine->noted, cps_hash64(line, length))) {
        char *longer = realloc(quarantine->pending, quarantine->pending_bytes + length + 1);
        if (longer == NULL) {
            status = cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
        } else {
            memcpy(longer + quarantine->pending_bytes, line, length);
            longer[quarantine->pending_bytes + length] = '\n';
            quarantine->pending = longer;
            quarantine->pending_bytes += length + 1;
        }
    }
    free(line);
    return status;
}

/* Rank 0: appends the lines that the file does not have. `lines` is used up. */
static cps_status write_new(cps_quarantine *quarantine, char *lines, size_t length) {
    size_t kept = 0;
    const char *end = lines + length, *newline;
    for (const char *at = lines; (newline = memchr(at, '\n', (size_t)(end - at))) != NULL;
         at = newline + 1) {
        const size_t bytes = (size_t)(newline - at);
        if (set_add(&quarantine->written, cps_hash64(at, bytes))) {
            memmove(lines + kept, at, bytes + 1);
            kept += bytes + 1;
        }
    }
    quarantine->total = quarantine->written.count;
    return kept > 0 && quarantine->path != NULL ? cps_file_append(quarantine->path, lines, kept)
                                                : CPS_OK;
}

cps_status cps_quarantine_flush(cps_quarantine *quarantine, cps_comm *comm) {
    static const char place[] = "quarantine";
    const int32_t size = cps_comm_size(comm), rank = cps_comm_rank(comm);
    int64_t *bytes = calloc((size_t)size * 2, sizeof *bytes);
    CPS_BUG_IF(bytes == NULL);
    int64_t *eights = bytes + size, total = 0;
    for (int32_t r = 0; r < size; r++) {
        eights[r] = sizeof *bytes;
    }
    bytes[rank] = (int64_t)quarantine->pending_bytes;
    cps_comm_allgatherv_inplace(comm, place, bytes, eights);
    for (int32_t r = 0; r < size; r++) {
        total += bytes[r];
    }
    cps_status status = CPS_OK;
    if (total > 0) {
        char *lines = rank == 0 ? malloc((size_t)total) : NULL;
        CPS_BUG_IF(rank == 0 && lines == NULL);
        cps_comm_gatherv(comm, place, quarantine->pending, lines, bytes, 0);
        if (rank == 0) {
            status = write_new(quarantine, lines, (size_t)total);
        }
        free(lines);
        free(quarantine->pending);
        quarantine->pending = NULL;
        quarantine->pending_bytes = 0;
    }
    free(bytes);
    cps_comm_broadcast(comm, place, &quarantine->total, sizeof quarantine->total, 0);
    return cps_agree(comm, place, status);
}

int64_t cps_quarantine_count(const cps_quarantine *quarantine) {
    return quarantine->total;
}
