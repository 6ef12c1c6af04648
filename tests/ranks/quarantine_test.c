/* Notes of all ranks reach the file of rank 0, each image once, over sessions. */
#include "report/quarantine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "comm/agree.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s\n", cps_comm_rank(comm), __FILE__, __LINE__,       \
                    #condition);                                                                   \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static int failures;
static char folder[64];
static char path[128];

static int64_t count_lines(cps_comm *comm) {
    char *text = NULL;
    size_t length = 0;
    int64_t lines = 0;
    CHECK(cps_file_read(path, 1 << 20, &text, &length) == CPS_OK);
    for (char *at = text, *newline; (newline = strchr(at, '\n')) != NULL; at = newline + 1) {
        cps_json *json = NULL;
        if (newline > at) {
            CHECK(cps_json_parse(at, (size_t)(newline - at), path, &json) == CPS_OK);
            CHECK(cps_json_count(json) == 4);
            cps_json_destroy(json);
            lines++;
        }
    }
    free(text);
    return lines;
}

static void note(cps_comm *comm, cps_quarantine *quarantine, int64_t record, uint64_t id) {
    CHECK(cps_quarantine_note(quarantine, "a \"set\".h5", record, id, "truncated") == CPS_OK);
}

/* `base`: images there already. */
static void session(cps_comm *comm, int64_t base) {
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    cps_quarantine *quarantine = NULL;
    CHECK(cps_quarantine_create(rank == 0 ? path : NULL, &quarantine) == CPS_OK);
    CHECK(cps_quarantine_flush(quarantine, comm) == CPS_OK);
    CHECK(cps_quarantine_count(quarantine) == base);
    note(comm, quarantine, 7, UINT64_MAX); /* met by everybody, twice */
    note(comm, quarantine, 7, UINT64_MAX);
    if (rank != 1) { /* a rank without notes of its own */
        note(comm, quarantine, base + 100 + rank, (uint64_t)rank);
    }
    CHECK(cps_quarantine_flush(quarantine, comm) == CPS_OK);
    const int64_t own = size > 1 ? size - 1 : 1, want = (base > 0 ? base : 1) + own;
    CHECK(cps_quarantine_count(quarantine) == want);
    note(comm, quarantine, 7, UINT64_MAX);
    CHECK(cps_quarantine_flush(quarantine, comm) == CPS_OK);
    CHECK(cps_quarantine_count(quarantine) == want);
    cps_quarantine_destroy(quarantine);
    if (rank == 0) {
        CHECK(count_lines(comm) == want);
    }
}

static void unwritable(cps_comm *comm) {
    const int32_t rank = cps_comm_rank(comm);
    cps_quarantine *quarantine = NULL;
    CHECK(cps_quarantine_create(rank == 0 ? "/proc/none/x" : NULL, &quarantine) == CPS_OK);
    note(comm, quarantine, 1, 1);
    const cps_status status = cps_quarantine_flush(quarantine, comm);
    CHECK(rank == 0 ? status != CPS_OK && status != CPS_ERR_PEER : status == CPS_ERR_PEER);
    CHECK(strstr(cps_fail_message(), "/proc/none/x") != NULL);
    cps_quarantine_destroy(quarantine);
}

int main(int argc, char **argv) {
    cps_comm *comm;
    const cps_status status = cps_comm_start(&argc, &argv, &comm);
    if (status != CPS_OK) {
        fprintf(stderr, "start: %s\n", cps_fail_message());
        return cps_exit_code(status);
    }
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    strcpy(folder, "/tmp/copse-quarantine-XXXXXX");
    if (rank == 0 && mkdtemp(folder) == NULL) {
        perror(folder);
        return 74;
    }
    snprintf(path, sizeof path, "%s/quarantine.jsonl", folder);
    session(comm, 0);
    if (rank == 0) { /* a kill cut the last line */
        CHECK(cps_file_append(path, "{\"file\":\"x", 10) == CPS_OK);
    }
    cps_comm_barrier(comm, "cut");
    if (rank == 0) {
        /* the cut line is no image; the next session ends it with a newline of its own */
        cps_quarantine *quarantine = NULL;
        CHECK(cps_quarantine_create(path, &quarantine) == CPS_OK);
        CHECK(cps_quarantine_count(quarantine) == 1 + (size > 1 ? size - 1 : 1));
        cps_quarantine_destroy(quarantine);
        unlink(path);
    }
    cps_comm_barrier(comm, "removed");
    session(comm, 0);
    session(comm, 1 + (size > 1 ? size - 1 : 1));
    unwritable(comm);
    if (rank == 0) {
        unlink(path);
        CHECK(rmdir(folder) == 0);
    }
    cps_comm_end(comm);
    return failures == 0 ? 0 : 1;
}
