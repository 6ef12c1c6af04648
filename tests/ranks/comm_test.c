/* Collectives, transfers, agreement and canonical sums on the ranks that are there. Without an
 * argument: what must work. With one (see comm_faults.sh): a fault that must end all ranks. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/numeric.h"
#include "base/rng.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "comm/comm.h"
#include "comm/comm_private.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s\n", cps_comm_rank(comm), __FILE__, __LINE__,       \
                    #condition);                                                                   \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static int failures;

static unsigned char pattern(int64_t rank, int64_t i) {
    return (unsigned char)(rank * 31 + i * 7 + i / 251);
}

static void test_identity(cps_comm *comm) {
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    CHECK(rank >= 0 && rank < size);
    CHECK(cps_comm_local_size(comm) == size); /* the test runs on one host */
    CHECK(cps_comm_local_rank(comm) == rank);
    CHECK(cps_comm_host(comm)[0] != '\0');
    CHECK(strcmp(getenv("OMPI_MCA_fbtl_posix_read_datasieving"), "0") == 0);
    cps_comm_barrier(comm, "barrier");
}

static void test_broadcast(cps_comm *comm) {
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    for (int32_t root = 0; root < size; root++) {
        unsigned char bytes[1000] = {0};
        for (int64_t i = 0; rank == root && i < 1000; i++) {
            bytes[i] = pattern(root, i);
        }
        cps_comm_broadcast(comm, "broadcast", bytes, sizeof bytes, root);
        cps_comm_broadcast(comm, "broadcast of nothing", NULL, 0, root);
        for (int64_t i = 0; i < 1000; i++) {
            CHECK(bytes[i] == pattern(root, i));
        }
        void *text = rank == root ? strdup("one text for all") : NULL;
        size_t length = rank == root ? strlen(text) : 0;
        cps_comm_broadcast_alloc(comm, "broadcast_alloc", &text, &length, root);
        CHECK(length == 16 && strcmp(text, "one text for all") == 0);
        free(text);
    }
}

/* Rank r has r * 1000 bytes (none on rank 0), or none but on the last rank. */
static void sizes(cps_comm *comm, bool lonely, int64_t bytes[64], int64_t *total_out) {
    *total_out = 0;
    for (int32_t r = 0; r < cps_comm_size(comm); r++) {
        bytes[r] = lonely ? (r == cps_comm_size(comm) - 1 ? 17 : 0) : r * (int64_t)1000;
        *total_out += bytes[r];
    }
}

static unsigned char *own_bytes(cps_comm *comm, const int64_t *bytes) {
    const int32_t rank = cps_comm_rank(comm);
    unsigned char *own = malloc((size_t)bytes[rank] + 1);
    for (int64_t i = 0; i < bytes[rank]; i++) {
        own[i] = pattern(rank, i);
    }
    return own;
}

static void check_all(cps_comm *comm, const unsigned char *all, const int64_t *bytes) {
    for (int32_t r = 0; r < cps_comm_size(comm); r++) {
        for (int64_t i = 0; i < bytes[r]; i++) {
            CHECK(*all == pattern(r, i));
            all++;
        }
    }
}

static void test_gathers(cps_comm *comm, bool lonely) {
    int64_t bytes[64], total, before = 0;
    sizes(comm, lonely, bytes, &total);
    unsigned char *own = own_bytes(comm, bytes);
    unsigned char *all = calloc((size_t)total + 1, 1);
    const int32_t rank = cps_comm_rank(comm);

    cps_comm_allgatherv(comm, "allgatherv", own, all, bytes);
    check_all(comm, all, bytes);

    memset(all, 0, (size_t)total);
    for (int32_t r = 0; r < rank; r++) {
        before += bytes[r];
    }
    memcpy(all + before, own, (size_t)bytes[rank]);
    cps_pending_gather *gather = NULL;
    CHECK(cps_gather_begin(comm, "gather", all, bytes, &gather) == CPS_OK);
    cps_pending_gather *second = NULL; /* two at once, ended in the other order */
    unsigned char *again = calloc((size_t)total + 1, 1);
    memcpy(again + before, own, (size_t)bytes[rank]);
    CHECK(cps_gather_begin(comm, "second gather", again, bytes, &second) == CPS_OK);
    for (int polls = 0; polls < 100000 && !cps_gather_poll(second); polls++) {
        cps_gather_poll(gather);
    }
    cps_gather_finish(second);
    cps_gather_finish(gather);
    check_all(comm, all, bytes);
    check_all(comm, again, bytes);

    const int32_t root = cps_comm_size(comm) - 1;
    memset(all, 0, (size_t)total);
    cps_comm_gatherv(comm, "gatherv", own, all, bytes, root);
    if (rank == root) {
        check_all(comm, all, bytes);
    }
    free(again);
    free(all);
    free(own);
}

/* Everybody sends two transfers to everybody, itself included, of other lengths each; received in
 * another order. */
static void test_exchange(cps_comm *comm) {
    enum { LONG = 300000 };
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    cps_exchange *exchange;
    CHECK(cps_exchange_create(comm, "exchange", 4 * size, &exchange) == CPS_OK);
    unsigned char *out = malloc(LONG);
    unsigned char *in = calloc((size_t)size, LONG);
    char small_in[64] = {0};
    const char small_out = (char)('a' + rank);
    for (int64_t i = 0; i < LONG; i++) {
        out[i] = pattern(rank, i);
    }
    for (int round = 0; round < 2; round++) { /* a finished set can be used again */
        memset(in, 0, (size_t)size * LONG);
        for (int32_t peer = 0; peer < size; peer++) {
            cps_exchange_receive(exchange, peer, 1048575, small_in + peer, 1);
            cps_exchange_receive(exchange, peer, 7, in + (int64_t)peer * LONG,
                                 (size_t)LONG - (size_t)peer);
            cps_exchange_send(exchange, peer, 7, out, (size_t)LONG - (size_t)rank);
            cps_exchange_send(exchange, peer, 1048575, &small_out, 1);
            cps_exchange_poll(exchange);
        }
        cps_exchange_finish(exchange);
        for (int32_t peer = 0; peer < size; peer++) {
            CHECK(small_in[peer] == 'a' + peer);
            for (int64_t i = 0; i < LONG - peer; i += 997) {
                CHECK(in[(int64_t)peer * LONG + i] == pattern(peer, i));
            }
        }
    }
    cps_exchange_send(exchange, rank, 3, NULL, 0);
    cps_exchange_receive(exchange, rank, 3, NULL, 0);
    cps_exchange_finish(exchange);
    cps_exchange_destroy(exchange);
    free(in);
    free(out);
}

static void test_agree(cps_comm *comm) {
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    CHECK(cps_agree(comm, "agree", CPS_OK) == CPS_OK);
    CHECK(cps_agreed_code(comm) == CPS_OK);
    for (int32_t bad = 0; bad < size; bad++) {
        cps_fail_clear();
        cps_status own = CPS_OK;
        if (rank >= bad) { /* several fail; the lowest speaks */
            own = cps_fail(rank == bad ? CPS_ERR_DATA : CPS_ERR_IO, "file %d is bad", rank);
        }
        cps_status status = cps_agree(comm, "agree", own);
        CHECK(status == (rank == bad ? CPS_ERR_DATA : CPS_ERR_PEER));
        CHECK(cps_agreed_code(comm) == CPS_ERR_DATA);
        char *wanted =
            rank == bad ? cps_format("file %d is bad", bad)
                        : cps_format("rank %d (%s): file %d is bad", bad, cps_comm_host(comm), bad);
        CHECK(strcmp(cps_fail_message(), wanted) == 0);
        /* agreed once more on the way out: the same verdict, not wrapped again */
        status = cps_agree(comm, "agree again", status);
        CHECK(status == (rank == bad ? CPS_ERR_DATA : CPS_ERR_PEER));
        CHECK(cps_agreed_code(comm) == CPS_ERR_DATA);
        CHECK(strcmp(cps_fail_message(), wanted) == 0);
        free(wanted);
    }
    for (int32_t yes = -1; yes < size; yes++) {
        CHECK(cps_agree_any(comm, "any", rank == yes) == (yes >= 0));
    }
}

static void test_equal(cps_comm *comm) {
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    const char *const keys[] = {"engine", "BLAS core", "seed"};
    const char *values[] = {"fp32", "Haswell", "1"};
    CHECK(cps_agree_equal(comm, "equal", keys, values, 3) == CPS_OK);
    if (size == 1) {
        return;
    }
    const int32_t odd = size - 1;
    if (rank == odd) {
        values[1] = "SkylakeX";
        values[2] = "2";
    }
    const cps_status status = cps_agree_equal(comm, "equal", keys, values, 3);
    CHECK(status == (rank == odd ? CPS_ERR_USAGE : CPS_ERR_PEER));
    CHECK(strstr(cps_fail_message(), "'BLAS core' is 'SkylakeX' here and 'Haswell' on rank 0") !=
          NULL);
    CHECK(rank == odd || strstr(cps_fail_message(), "rank ") == cps_fail_message());
    const cps_status shorter = cps_agree_equal(comm, "equal", keys, values, rank == odd ? 1 : 3);
    CHECK(shorter != CPS_OK && strstr(cps_fail_message(), "different programs") != NULL);
}

/* The sum as one rank would have it, from the same numbers. */
static void lone_sum(int64_t parts, const double *rows, int64_t width, double *out) {
    cps_node_run *runs = calloc((size_t)parts + 1, sizeof *runs);
    for (int64_t p = 0; p < parts; p++) {
        runs[p] = (cps_node_run){.first = p, .count = 1, .level = 0};
    }
    cps_tree_finish_f64(parts, runs, (int32_t)parts, rows, width, out);
    free(runs);
}

static void check_sum(cps_comm *comm, int64_t parts, int64_t width) {
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    const cps_draw_key key = {.seed = 5, .epoch = (uint64_t)parts};
    double *rows = malloc((size_t)(parts * width + 1) * sizeof *rows);
    for (int64_t i = 0; i < parts * width; i++) {
        rows[i] = cps_draw_normal(&key, (uint64_t)i);
    }
    double *wanted = calloc((size_t)width, sizeof *wanted);
    double *sum = calloc((size_t)width, sizeof *sum);
    lone_sum(parts, rows, width, wanted);
    const int64_t first = cps_part_first(parts, size, rank);
    CHECK(cps_canonical_sum(comm, "sum", parts, rows + first * width, width, sum) == CPS_OK);
    CHECK(memcmp(sum, wanted, (size_t)width * sizeof *sum) == 0);
    /* all parts on the last rank: the others own nothing */
    int64_t owned[65] = {0};
    owned[size] = parts;
    memset(sum, 0, (size_t)width * sizeof *sum);
    CHECK(cps_canonical_sum_owned(comm, "sum", parts, owned, rows, width, sum) == CPS_OK);
    CHECK(memcmp(sum, wanted, (size_t)width * sizeof *sum) == 0);
    free(sum);
    free(wanted);
    free(rows);
}

static void test_canonical(cps_comm *comm) {
    for (int64_t parts = 0; parts <= 40; parts++) {
        check_sum(comm, parts, 1 + parts % 3);
    }
    check_sum(comm, 13, 70);
    check_sum(comm, 32, 20000); /* through the workspace in pieces */
}

static void test_traffic(cps_comm *comm) {
    uint64_t sent, received, sent_before, received_before;
    const uint64_t size = (uint64_t)cps_comm_size(comm);
    cps_comm_traffic(comm, &sent_before, &received_before);
    char byte[64] = {0};
    cps_comm_broadcast(comm, "traffic", byte, 64, 0);
    cps_comm_traffic(comm, &sent, &received);
    const bool root = cps_comm_rank(comm) == 0;
    CHECK(sent - sent_before == (root ? 64 * (size - 1) : 0));
    CHECK(received - received_before == (root ? 0 : 64));
}

static void test_quiet_watchdog(cps_comm *comm) {
    CHECK(cps_watchdog_start(comm, 0.5) == CPS_OK);
    for (int i = 0; i < 10; i++) { /* longer than the limit in all, but with beats */
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        cps_watchdog_beat(comm);
    }
    cps_comm_barrier(comm, "watched barrier");
    cps_watchdog_stop(comm);
    CHECK(cps_watchdog_start(comm, 0) == CPS_OK);
    CHECK(!cps_fault_here(comm, "read", 0));
}

static void test_moves(cps_comm *comm) {
    test_broadcast(comm);
    test_gathers(comm, false);
    test_gathers(comm, true);
    test_exchange(comm);
    test_canonical(comm);
}

/* ---- faults ---------------------------------------------------------------------------------- */

static void fault(cps_comm *comm, const char *what) {
    const bool last = cps_comm_rank(comm) == cps_comm_size(comm) - 1;
    CPS_BUG_IF(cps_watchdog_start(comm, 2) != CPS_OK);
    cps_comm_set_stage(comm, "test work");
    if (strcmp(what, "panic") == 0) {
        CPS_BUG_IF(last);
    } else if (strcmp(what, "hang") == 0 && last) {
        nanosleep(&(struct timespec){.tv_sec = 60}, NULL);
    } else if (strcmp(what, "stop") == 0 && last) {
        raise(SIGSTOP);
    } else if (strcmp(what, "sizes") == 0) {
        char bytes[64] = {0};
        cps_comm_broadcast(comm, "unequal sizes", bytes, last ? 8 : 64, 0);
    } else if (strcmp(what, "site") == 0 && cps_fault_here(comm, "read", 3)) {
        raise(SIGKILL);
    }
    if (cps_agree(comm, "place of the test", CPS_OK) != CPS_OK) {
        failures++;
    }
}

int main(int argc, char **argv) {
    cps_comm *comm;
    const cps_status status = cps_comm_start(&argc, &argv, &comm);
    if (status != CPS_OK) {
        fprintf(stderr, "start: %s\n", cps_fail_message());
        return cps_exit_code(status);
    }
    if (argc > 1) {
        fault(comm, argv[1]);
    } else {
        test_identity(comm);
        test_moves(comm);
        comm->piece_bytes = 333; /* all that is longer goes in pieces, as beyond 1 GiB */
        test_moves(comm);
        comm->piece_bytes = CPS_PIECE_BYTES;
        test_agree(comm);
        test_equal(comm);
        test_traffic(comm);
        test_quiet_watchdog(comm);
    }
    cps_comm_end(comm);
    return failures == 0 ? 0 : 1;
}
