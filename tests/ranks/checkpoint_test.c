/* Checkpoints on the ranks that are there. Without arguments: what a run writes comes back, damage
 * is found, failures leave the older files alone. With arguments, for checkpoint_same_bytes.sh:
 *     checkpoint_test FOLDER STEPS    goes on from the newest checkpoint of FOLDER, if there is
 * one, to step STEPS and writes one there */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "comm/comm_private.h"
#include "model/weights.h"
#include "train/checkpoint.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s (%s)\n", cps_comm_rank(comm), __FILE__, __LINE__,  \
                    #condition, cps_fail_message());                                               \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static int failures;

enum { PARTS = 6, TOTAL_STEPS = 8 };

typedef struct world {
    cps_comm *comm;
    cps_model *model;
    cps_params *params;
    cps_updater *updater;
    cps_json *optimizer;
    double lr[TOTAL_STEPS], decay[TOTAL_STEPS];
} world;

static void need(cps_status status, const char *what) {
    if (status != CPS_OK) {
        fprintf(stderr, "%s: %s\n", what, cps_fail_message());
        exit(1);
    }
}

static cps_json *parse(const char *text) {
    cps_json *json = NULL;
    need(cps_json_parse(text, strlen(text), "test", &json), "json");
    return json;
}

static void add(cps_params *params, const cps_param_spec *spec) {
    int32_t index;
    need(cps_params_add(params, spec, &index), spec->name);
}

static world make_world(cps_comm *comm, uint64_t seed, int64_t width) {
    world w = {.comm = comm};
    cps_json *spec = parse("{\"preset\":\"ViT-Micro-8\",\"image\":{\"layers\":1},"
                           "\"text\":{\"layers\":1,\"vocabulary\":3000,\"context\":16}}");
    need(cps_model_create(spec, 0, 0, &w.model), "model");
    cps_json_destroy(spec);
    w.params = cps_model_params(w.model);
    add(w.params, &(cps_param_spec){.name = "logit_scale"});
    add(w.params, &(cps_param_spec){.name = "centre",
                                    .rank = 1,
                                    .shape = {width},
                                    .init = {.kind = CPS_INIT_NORMAL, .a = 1},
                                    .kind = CPS_PARAM_BUFFER});
    add(w.params, &(cps_param_spec){
                      .name = "old.logit_scale", .kind = CPS_PARAM_EMA, .ema_of = "logit_scale"});
    need(cps_params_allocate(w.params, seed), "parameters");
    const char *const train[] = {"!visual.conv1.*"};
    need(cps_params_set_train(w.params, train, 1), "train");
    for (int s = 0; s < TOTAL_STEPS; s++) {
        w.lr[s] = 1e-3 / (1 + s);
        w.decay[s] = 0.1;
    }
    w.optimizer = parse("{\"lr\":1}");
    return w;
}

static void make_updater(world *w) {
    const cps_updater_options options = {.comm = w->comm,
                                         .params = w->params,
                                         .parts = PARTS,
                                         .optimizer_kind = "adamw",
                                         .optimizer = w->optimizer,
                                         .lr = w->lr,
                                         .weight_decay = w->decay,
                                         .steps = TOTAL_STEPS,
                                         .grad_clip_norm = 1,
                                         .world = true};
    static const double momentum[] = {0.9};
    need(cps_updater_create(&options, &w->updater), "updater");
    need(cps_updater_set_ema(w->updater, cps_params_find(w->params, "old.logit_scale"),
                             (cps_numbers){1, momentum}),
         "moving average");
}

static void free_world(world *w) {
    cps_updater_destroy(w->updater);
    cps_model_destroy(w->model);
    cps_json_destroy(w->optimizer);
}

static cps_real gradient(int64_t step, int64_t part, int32_t tensor, int64_t i) {
    uint64_t x =
        (uint64_t)(step * 31 + part * 7 + tensor * 1009) * 0x9E3779B97F4A7C15u + (uint64_t)i;
    x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 32)) * 0x94D049BB133111EBu;
    return (cps_real)((double)(x >> 40) * 0x1p-24 - 0.5);
}

static void train_step(world *w, int64_t step) {
    const int32_t rank = cps_comm_rank(w->comm), size = cps_comm_size(w->comm);
    cps_updater_wait_weights(w->updater);
    cps_updater_begin(w->updater, PARTS);
    for (int64_t part = cps_part_first(PARTS, size, rank);
         part < cps_part_first(PARTS, size, rank + 1); part++) {
        cps_updater_part_begin(w->updater, part);
        for (int32_t t = 0; t < cps_params_count(w->params); t++) {
            cps_param *param = cps_params_at(w->params, t);
            for (int64_t i = 0; param->learns && i < param->count; i++) {
                param->tensor.grad[i] = gradient(step, part, t, i);
            }
            param->tensor.grad_fresh = false;
        }
        cps_updater_part_end(w->updater, part);
    }
    cps_update_norms norms;
    need(cps_updater_finish(w->updater, CPS_OK, NULL, &norms), "finish");
    need(cps_updater_apply(w->updater, step), "apply");
    cps_real *centre = cps_params_at(w->params, cps_params_find(w->params, "centre"))->tensor.data;
    centre[0] += (cps_real)1; /* as commit would */
}

static cps_status save(world *w, const char *folder, int64_t step) {
    cps_json *state = parse("{\"stage\":0,\"best\":\"0.25\",\"table\":{\"patience\":3}}");
    cps_json_add_number(state, "step", (double)step);
    cps_json *identity = parse("{\"bits\":{\"real\":\"as built\"},\"job\":{\"seed\":7}}");
    const cps_checkpoint_content content = {
        .model = w->model, .updater = w->updater, .state = state, .identity = identity};
    const cps_status status = cps_checkpoint_write(w->comm, folder, step, &content);
    cps_json_destroy(state);
    cps_json_destroy(identity);
    return status;
}

/* ---- the script's part -------------------------------------------------------------------------
 */

static int go_on(cps_comm *comm, const char *folder, int64_t last) {
    world w = make_world(comm, 5, 100);
    char *path = NULL;
    int64_t step = 0;
    make_updater(&w);
    need(cps_checkpoint_latest(comm, folder, &path, &step), "latest");
    if (path != NULL) {
        need(cps_checkpoint_load(comm, path, w.model, w.updater), "load");
    } else {
        step = 0;
    }
    for (; step < last; step++) {
        train_step(&w, step);
    }
    const cps_status status = save(&w, folder, last);
    if (status != CPS_OK) {
        fprintf(stderr, "rank %d: %s\n", cps_comm_rank(comm), cps_fail_message());
    }
    free(path);
    free_world(&w);
    return cps_exit_code(cps_agreed_code(comm));
}

/* ---- a folder for all ranks --------------------------------------------------------------------
 */

static char *make_folder(cps_comm *comm) {
    void *name = NULL;
    size_t length = 0;
    if (cps_comm_rank(comm) == 0) {
        const char *base = getenv("TMPDIR");
        char *made = cps_format("%s/copse-checkpoint.XXXXXX", base != NULL ? base : "/tmp");
        if (mkdtemp(made) == NULL) {
            exit(1);
        }
        name = made;
        length = strlen(made) + 1;
    }
    cps_comm_broadcast_alloc(comm, "folder", &name, &length, 0);
    return name;
}

static int64_t files_in(cps_comm *comm, const char *folder) {
    int64_t count = 0;
    if (cps_comm_rank(comm) == 0) {
        char *pattern = cps_format("%s/*", folder);
        char **paths = NULL;
        if (cps_glob(pattern, &paths, &count) != CPS_OK) {
            count = 0;
        }
        cps_strings_destroy(paths, count);
        free(pattern);
    }
    cps_comm_broadcast(comm, "files", &count, sizeof count, 0);
    return count;
}

static void remove_folder(cps_comm *comm, char *folder) {
    cps_comm_barrier(comm, "done");
    if (cps_comm_rank(comm) == 0) {
        char *command = cps_format("rm -rf '%s'", folder);
        if (system(command) != 0) {
            failures++;
        }
        free(command);
    }
    free(folder);
}

/* Rank 0 changes `count` bytes from the end of the file, or cuts them off. */
static void damage(cps_comm *comm, const char *path, int64_t from_end, bool cut) {
    if (cps_comm_rank(comm) == 0) {
        struct stat info;
        CHECK(stat(path, &info) == 0);
        const off_t at = (off_t)(info.st_size - from_end);
        if (cut) {
            CHECK(truncate(path, at) == 0);
        } else {
            const int file = open(path, O_RDWR);
            unsigned char byte;
            CHECK(pread(file, &byte, 1, at) == 1);
            byte ^= 0x10;
            CHECK(pwrite(file, &byte, 1, at) == 1);
            close(file);
        }
    }
    cps_comm_barrier(comm, "damage");
}

static char *path_of(const char *folder, int64_t step) {
    return cps_format("%s/step-%08lld.h5", folder, (long long)step);
}

/* ---- round trip --------------------------------------------------------------------------------
 */

static void compare_worlds(cps_comm *comm, world *a, world *b) {
    CHECK(cps_params_digest(a->params, "*") == cps_params_digest(b->params, "*"));
    for (int32_t i = 0; i < cps_params_count(a->params); i++) {
        const cps_param *left = cps_params_at(a->params, i), *right = cps_params_at(b->params, i);
        CHECK(left->updates == right->updates);
        int64_t first, count;
        cps_updater_owned(a->updater, i, &first, &count);
        for (int32_t s = 0; s < 2 && count > 0; s++) {
            CHECK(memcmp(cps_updater_state(a->updater, i, s), cps_updater_state(b->updater, i, s),
                         (size_t)count * sizeof(cps_real)) == 0);
        }
    }
}

static void test_round_trip(cps_comm *comm) {
    char *folder = make_folder(comm);
    world a = make_world(comm, 5, 100), b = make_world(comm, 99, 100);
    make_updater(&a);
    make_updater(&b);
    train_step(&a, 0);
    train_step(&a, 1);
    CHECK(save(&a, folder, 2) == CPS_OK);
    CHECK(files_in(comm, folder) == 1);
    char *path = NULL;
    int64_t step = 0;
    CHECK(cps_checkpoint_latest(comm, folder, &path, &step) == CPS_OK);
    CHECK(path != NULL && step == 2 && cps_is_checkpoint(path));
    CHECK(cps_params_digest(a.params, "*") != cps_params_digest(b.params, "*"));
    CHECK(cps_checkpoint_load(comm, path, b.model, b.updater) == CPS_OK);
    compare_worlds(comm, &a, &b);
    for (int64_t s = 2; s < 5; s++) { /* 10 = 5, save, load, 5, in small */
        train_step(&a, s);
        train_step(&b, s);
    }
    cps_updater_wait_weights(a.updater);
    cps_updater_wait_weights(b.updater);
    compare_worlds(comm, &a, &b);

    cps_json *state = NULL, *identity = NULL;
    CHECK(cps_checkpoint_read_state(comm, path, &state, &identity) == CPS_OK);
    CHECK(cps_json_get_integer(state, "step", -1) == 2);
    CHECK(cps_json_number(cps_json_path(state, "table.patience")) == 3);
    CHECK(cps_json_number(cps_json_path(identity, "job.seed")) == 7);
    cps_json_destroy(state);
    cps_json_destroy(identity);
    free(path);
    free_world(&a);
    free_world(&b);
    remove_folder(comm, folder);
}

/* Declared parameters are enough; without an updater the state in the file is passed over. */
static void test_without_updater(cps_comm *comm) {
    char *folder = make_folder(comm);
    world a = make_world(comm, 5, 100);
    CHECK(save(&a, folder, 0) == CPS_OK);
    char *path = path_of(folder, 0);
    cps_json *spec = parse("{\"preset\":\"ViT-Micro-8\",\"image\":{\"layers\":1},"
                           "\"text\":{\"layers\":1,\"vocabulary\":3000,\"context\":16}}");
    cps_model *fresh = NULL;
    need(cps_model_create(spec, 0, 0, &fresh), "model");
    CHECK(cps_checkpoint_load(comm, path, fresh, NULL) == CPS_OK);
    CHECK(cps_params_digest(cps_model_params(fresh), "visual.*") ==
          cps_params_digest(a.params, "visual.*"));
    make_updater(&a); /* the file has no state: what is there stays zero */
    CHECK(cps_checkpoint_load(comm, path, a.model, a.updater) == CPS_OK);
    cps_model_destroy(fresh);
    cps_json_destroy(spec);
    free(path);
    free_world(&a);
    remove_folder(comm, folder);
}

/* ---- damage ------------------------------------------------------------------------------------
 */

static void test_damage(cps_comm *comm) {
    char *folder = make_folder(comm);
    world a = make_world(comm, 5, 100);
    make_updater(&a);
    char *path = NULL;
    int64_t step = 0;
    char *none = cps_format("%s/none", folder);
    CHECK(cps_checkpoint_latest(comm, none, &path, &step) == CPS_OK && path == NULL);
    CHECK(cps_checkpoint_latest(comm, folder, &path, &step) == CPS_OK && path == NULL);
    for (int64_t s = 1; s <= 4; s++) {
        CHECK(save(&a, folder, s) == CPS_OK);
    }
    char *last = path_of(folder, 4), *third = path_of(folder, 3), *second = path_of(folder, 2);
    damage(comm, last, 5000, true);       /* cut short */
    damage(comm, third, 100000, false);   /* a bit of a tensor */
    damage(comm, second, 8000000, false); /* and of another, somewhere in the middle */
    CHECK(cps_checkpoint_latest(comm, folder, &path, &step) == CPS_OK);
    CHECK(path != NULL && step == 1);
    free(path);
    CHECK(cps_checkpoint_load(comm, third, a.model, a.updater) != CPS_OK);
    CHECK(strstr(cps_fail_message(), "step-00000003.h5") != NULL &&
          strstr(cps_fail_message(), "checksum") != NULL);
    CHECK(cps_checkpoint_load(comm, last, a.model, NULL) != CPS_OK);
    CHECK(!cps_is_checkpoint("/dev/null") && !cps_is_checkpoint(folder));

    /* a model of another shape, one with more */
    char *first = path_of(folder, 1);
    world other = make_world(comm, 5, 101);
    CHECK(cps_checkpoint_load(comm, first, other.model, NULL) != CPS_OK);
    CHECK(strstr(cps_fail_message(), "model/centre") != NULL);
    free_world(&other);
    other = make_world(comm, 5, 100);
    add(other.params, &(cps_param_spec){.name = "head.weight", .rank = 1, .shape = {3}});
    CHECK(cps_checkpoint_load(comm, first, other.model, NULL) != CPS_OK);
    CHECK(strstr(cps_fail_message(), "model/head.weight") != NULL);
    free_world(&other);

    CHECK(cps_checkpoint_prune(comm, folder, 2, 1) == CPS_OK);
    CHECK(files_in(comm, folder) == 3); /* 4, 3, and 1 as the best */
    CHECK(cps_checkpoint_prune(comm, folder, 1, -1) == CPS_OK);
    CHECK(files_in(comm, folder) == 1);
    free(first);
    free(second);
    free(third);
    free(last);
    free(none);
    free_world(&a);
    remove_folder(comm, folder);
}

/* ---- failures while writing --------------------------------------------------------------------
 */

static void set_fault(cps_comm *comm, const char *site, int64_t rank, int64_t step) {
    snprintf(comm->fault_site, sizeof comm->fault_site, "%s", site);
    comm->fault_rank = rank;
    comm->fault_step = step;
}

static void test_failing_write(cps_comm *comm) {
    char *folder = make_folder(comm);
    const int32_t last = cps_comm_size(comm) - 1;
    const bool mine = cps_comm_rank(comm) == last;
    world a = make_world(comm, 5, 100);
    make_updater(&a);
    CHECK(save(&a, folder, 1) == CPS_OK);

    set_fault(comm, "checkpoint", last, 2);
    CHECK(save(&a, folder, 2) == (mine ? CPS_ERR_IO : CPS_ERR_PEER));
    CHECK(strstr(cps_fail_message(), "checkpoint") != NULL);
    set_fault(comm, "", 0, 0);
    CHECK(files_in(comm, folder) == 1);

    if (last > 0) { /* the last rank alone may not write that far into a file */
        struct rlimit limit, small;
        CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
        small = limit;
        small.rlim_cur = 300000;
        signal(SIGXFSZ, SIG_IGN);
        CHECK(!mine || setrlimit(RLIMIT_FSIZE, &small) == 0);
        CHECK(save(&a, folder, 3) == (mine ? CPS_ERR_IO : CPS_ERR_PEER));
        CHECK(!mine || setrlimit(RLIMIT_FSIZE, &limit) == 0);
        CHECK(strstr(cps_fail_message(), "step-00000003.h5") != NULL);
        CHECK(cps_agreed_code(comm) == CPS_ERR_IO);
        CHECK(files_in(comm, folder) == 1);
    }

    char *nowhere = cps_format("%s/nowhere", folder);
    CHECK(save(&a, nowhere, 4) == (cps_comm_rank(comm) == 0 ? CPS_ERR_IO : CPS_ERR_PEER));
    free(nowhere);
    char *path = NULL;
    int64_t step = 0;
    CHECK(cps_checkpoint_latest(comm, folder, &path, &step) == CPS_OK && step == 1);
    CHECK(cps_checkpoint_load(comm, path, a.model, a.updater) == CPS_OK);
    free(path);
    free_world(&a);
    remove_folder(comm, folder);
}

/* The file system has room for one checkpoint (19 MB in float) and no second: the one that is there
 * stays and loads.
 */
static void test_full_disk(cps_comm *comm) {
    char *folder = make_folder(comm);
    const char *size = sizeof(cps_real) == sizeof(double) ? "size=48m" : "size=24m";
    bool mounted = cps_comm_rank(comm) == 0 && mount("tmpfs", folder, "tmpfs", 0, size) == 0;
    cps_comm_broadcast(comm, "mount", &mounted, sizeof mounted, 0);
    if (!mounted) {
        if (cps_comm_rank(comm) == 0) {
            printf("skipped: full disk: no permission to mount a small file system\n");
        }
        remove_folder(comm, folder);
        return;
    }
    world a = make_world(comm, 5, 100);
    make_updater(&a);
    CHECK(save(&a, folder, 1) == CPS_OK);
    CHECK(save(&a, folder, 2) != CPS_OK);
    CHECK(cps_agreed_code(comm) == CPS_ERR_IO);
    CHECK(strstr(cps_fail_message(), "step-00000002.h5") != NULL);
    CHECK(strstr(cps_fail_message(), "space") != NULL);
    CHECK(files_in(comm, folder) == 1);
    char *path = NULL;
    int64_t step = 0;
    CHECK(cps_checkpoint_latest(comm, folder, &path, &step) == CPS_OK && step == 1);
    CHECK(cps_checkpoint_load(comm, path, a.model, a.updater) == CPS_OK);
    free(path);
    free_world(&a);
    cps_comm_barrier(comm, "done");
    CHECK(cps_comm_rank(comm) != 0 || umount(folder) == 0);
    remove_folder(comm, folder);
}

/* ---- as weights, and for people ----------------------------------------------------------------
 */

static void test_as_weights(cps_comm *comm) {
    char *folder = make_folder(comm);
    world a = make_world(comm, 5, 100), b = make_world(comm, 6, 100);
    CHECK(save(&a, folder, 3) == CPS_OK);
    char *path = path_of(folder, 3);
    CHECK(cps_params_digest(a.params, "*") != cps_params_digest(b.params, "*"));
    cps_weights_report report;
    CHECK(cps_weights_load(b.model, path, false, &report) == CPS_OK);
    CHECK(report.missing_count == 0);
    cps_weights_report_free(&report);
    CHECK(cps_params_digest(a.params, "*.weight") == cps_params_digest(b.params, "*.weight"));
    free(path);
    free_world(&a);
    free_world(&b);
    remove_folder(comm, folder);
}

static void test_inspect(cps_comm *comm) {
    char *folder = make_folder(comm);
    world a = make_world(comm, 5, 100);
    make_updater(&a);
    CHECK(save(&a, folder, 7) == CPS_OK);
    char *path = path_of(folder, 7);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(cps_checkpoint_inspect(path, stream) == CPS_OK);
    fclose(stream);
    const char *const parts[] = {"step: 7\n", "exp_avg, exp_avg_sq;", "checksums: all ", "patience",
                                 "as built"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strstr(text, parts[i]) == NULL) {
            fprintf(stderr, "'%s' is not in:\n%s", parts[i], text);
            failures++;
        }
    }
    free(text);
    cps_comm_barrier(comm, "inspect");
    damage(comm, path, 100000, false);
    stream = open_memstream(&text, &length);
    CHECK(cps_checkpoint_inspect(path, stream) == CPS_ERR_DATA);
    fclose(stream);
    CHECK(strstr(text, "do not hold") != NULL);
    free(text);
    free(path);
    free_world(&a);
    remove_folder(comm, folder);
}

int main(int argc, char **argv) {
    cps_comm *comm = NULL;
    if (cps_comm_start(&argc, &argv, &comm) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 1;
    }
    need(cps_pool_start(1 + (cps_comm_rank(comm) + 1) % 2), "threads");
    int code = 0;
    if (argc == 3) {
        code = go_on(comm, argv[1], strtol(argv[2], NULL, 10));
    } else {
        test_round_trip(comm);
        test_without_updater(comm);
        test_damage(comm);
        test_failing_write(comm);
        test_full_disk(comm);
        test_inspect(comm);
        test_as_weights(comm);
        code = cps_agree_any(comm, "result", failures > 0) ? 1 : 0;
    }
    cps_pool_stop();
    cps_comm_end(comm);
    return code;
}
