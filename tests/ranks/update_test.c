/* The sharded update on the ranks that are there against a plain reference that every rank computes
 * whole: gradients by the recursive definition of the canonical tree, the optimizer on whole
 * tensors. The reference does not see the number of ranks, so equality on every rank is equality of
 * all worlds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/numeric.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "comm/comm.h"
#include "train/optimizer.h"
#include "train/update.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s\n", cps_comm_rank(comm), __FILE__, __LINE__,       \
                    #condition);                                                                   \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static int failures;

enum { STEPS = 3, TENSORS = 9 };

/* What the model holds: large, tiny, a multiple of a chunk, frozen, scalar with bounds, copies. */
static const struct {
    const char *name, *ema_of;
    int32_t rank;
    int64_t shape[2];
    bool bounded;
} specs[TENSORS] = {
    {"a.weight", NULL, 2, {3, 70001}, false},
    {"a.bias", NULL, 1, {7}, false},
    {"frozen.weight", NULL, 2, {10, 91}, false},
    {"b.weight", NULL, 2, {256, 256}, false},
    {"logit_scale", NULL, 0, {0}, true},
    {"c.weight", NULL, 2, {130, 1001}, false},
    {"c.bias", NULL, 1, {1001}, false},
    {"ema.a", "a.weight", 2, {3, 70001}, false},
    {"ema.frozen", "frozen.weight", 2, {10, 91}, false},
};
enum { FROZEN = 2, SCALE = 4, C_BIAS = 6, EMA_A = 7, EMA_FROZEN = 8 };
static const double ema_momentum[STEPS] = {0.9, 0.95, 0.99};

typedef struct scenario {
    const char *kind, *json;
    int64_t parts, tail; /* of the steps, of the last one */
    double clip, clip_tensor;
    bool world;
    bool held; /* c.weight in the first step */
} scenario;

static cps_params *make_params(void) {
    cps_params *params = NULL;
    cps_status status = cps_params_create(&params);
    for (int32_t i = 0; i < TENSORS && status == CPS_OK; i++) {
        cps_param_spec spec = {.name = specs[i].name,
                               .rank = specs[i].rank,
                               .shape = {specs[i].shape[0], specs[i].shape[1]},
                               .init = {.kind = CPS_INIT_NORMAL, .a = 0.5},
                               .decay = specs[i].rank >= 2,
                               .has_bounds = specs[i].bounded,
                               .minimum = 0.1,
                               .maximum = 0.2};
        if (specs[i].ema_of != NULL) {
            spec.kind = CPS_PARAM_EMA;
            spec.ema_of = specs[i].ema_of;
        }
        int32_t index;
        status = cps_params_add(params, &spec, &index);
    }
    if (status == CPS_OK) {
        status = cps_params_allocate(params, 7);
    }
    const char *const train[] = {"!frozen.*"};
    const char *const slow[] = {"b.*"};
    const double factor[] = {0.25};
    if (status == CPS_OK) {
        status = cps_params_set_train(params, train, 1);
    }
    if (status == CPS_OK) {
        status = cps_params_set_lr_factors(params, slow, factor, 1);
    }
    if (status != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        exit(1);
    }
    cps_real *away = cps_params_at(params, EMA_FROZEN)->tensor.data;
    for (int64_t i = 0; i < cps_params_at(params, EMA_FROZEN)->count; i++) {
        away[i] += (cps_real)1; /* so that the copy has a way to go */
    }
    return params;
}

/* ---- gradients: a pure function ----------------------------------------------------------------
 */

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}

static cps_real gradient(int64_t step, int64_t part, int32_t tensor, int64_t grain, int64_t i) {
    const uint64_t key = mix((uint64_t)(step * 1000003 + part * 7919 + tensor * 131 + grain));
    return (cps_real)((double)(mix(key + (uint64_t)i) >> 11) * 0x1p-53 - 0.4);
}

/* Some parts give some tensors nothing. */
static bool gives(int64_t part, int32_t tensor) {
    return tensor != FROZEN && specs[tensor].ema_of == NULL && !(tensor == C_BIAS && part % 3 == 1);
}

static void add_grain(cps_param *param, int32_t t, int64_t step, int64_t part, int64_t grain) {
    cps_real *grad = param->tensor.grad;
    for (int64_t i = 0; i < param->count; i++) {
        const cps_real g = gradient(step, part, t, grain, i);
        grad[i] = param->tensor.grad_fresh ? g : grad[i] + g;
    }
    param->tensor.grad_fresh = false;
}

/* ---- reference ---------------------------------------------------------------------------------
 */

typedef struct reference {
    cps_params *params;
    cps_real *state[TENSORS][CPS_OPTIMIZER_STATES];
    cps_real *grad[TENSORS];
    double norm;
} reference;

static cps_real part_value(int64_t step, int64_t part, int32_t t, int64_t i) {
    return gives(part, t) ? gradient(step, part, t, 0, i) + gradient(step, part, t, 1, i) : 0;
}

/* The canonical sum over [first, first + size) cut at `parts`, by its definition. */
static cps_real tree(int64_t step, int64_t parts, int32_t t, int64_t i, int64_t first,
                     int64_t size) {
    if (size == 1) {
        return part_value(step, first, t, i);
    }
    const int64_t half = size / 2;
    const cps_real left = tree(step, parts, t, i, first, half);
    return first + half >= parts ? left : left + tree(step, parts, t, i, first + half, half);
}

/* Reproducibility "run": each rank's grains one after another in one place, then the ranks. */
static cps_real chain(int64_t step, int64_t parts, int32_t ranks, int32_t t, int64_t i) {
    cps_real total = 0;
    bool begun = false;
    for (int32_t r = 0; r < ranks; r++) {
        const int64_t first = cps_part_first(parts, ranks, r);
        const int64_t last = cps_part_first(parts, ranks, r + 1);
        cps_real own = 0;
        bool fresh = true;
        for (int64_t part = first; part < last; part++) {
            for (int64_t grain = 0; grain < 2 && gives(part, t); grain++) {
                const cps_real g = gradient(step, part, t, grain, i);
                own = fresh ? g : own + g;
                fresh = false;
            }
        }
        if (last > first) {
            total = begun ? total + own : own;
            begun = true;
        }
    }
    return total;
}

enum { HELD = 5 };
static bool is_held(const scenario *s, int32_t t, int64_t step) {
    return s->held && t == HELD && step == 0;
}

static void reference_gradient(cps_comm *comm, reference *ref, const scenario *s, int64_t step,
                               int64_t parts) {
    int64_t size = 1;
    while (size < parts) {
        size *= 2;
    }
    double total = 0;
    for (int32_t t = 0; t < TENSORS; t++) {
        const int64_t count = cps_params_at(ref->params, t)->count;
        for (int64_t i = 0; i < count; i++) {
            ref->grad[t][i] = s->world ? tree(step, parts, t, i, 0, size)
                                       : chain(step, parts, cps_comm_size(comm), t, i);
        }
        if (t == SCALE) {
            ref->grad[t][0] += (cps_real)0.125;
        }
        if (is_held(s, t, step)) {
            continue;
        }
        for (int64_t i = 0; i < count; i += CPS_CHUNK) {
            total += cps_sum_squares(ref->grad[t] + i, cps_min_i64(CPS_CHUNK, count - i));
        }
    }
    ref->norm = sqrt(total);
}

static double squares_of(const cps_real *values, int64_t count) {
    double total = 0;
    for (int64_t i = 0; i < count; i += CPS_CHUNK) {
        total += cps_sum_squares(values + i, cps_min_i64(CPS_CHUNK, count - i));
    }
    return total;
}

static void lars_sums(const cps_optimizer *optimizer, cps_update *update) {
    double param_squares = 0, step_squares = 0;
    for (int64_t i = 0; i < update->count; i += CPS_CHUNK) {
        cps_update piece = *update;
        piece.param += i;
        piece.grad += i;
        piece.count = cps_min_i64(CPS_CHUNK, update->count - i);
        double p, d;
        cps_optimizer_norms(optimizer, &piece, &p, &d);
        param_squares += p;
        step_squares += d;
    }
    update->param_squares = param_squares;
    update->step_squares = step_squares;
}

static void reference_follow(reference *ref, int64_t step, int32_t copy, int32_t source) {
    const cps_real m = (cps_real)ema_momentum[step], n = (cps_real)(1 - ema_momentum[step]);
    cps_real *to = cps_params_at(ref->params, copy)->tensor.data;
    const cps_real *from = cps_params_at(ref->params, source)->tensor.data;
    for (int64_t i = 0; i < cps_params_at(ref->params, copy)->count; i++) {
        to[i] = m * to[i] + n * from[i];
    }
}

static void reference_step(reference *ref, const scenario *s, const cps_optimizer *optimizer,
                           int64_t step, const double *lr, const double *decay) {
    const double global = s->clip_tensor > 0 ? 1 : cps_clip_factor(ref->norm, s->clip);
    for (int32_t t = 0; t < EMA_A; t++) {
        cps_param *param = cps_params_at(ref->params, t);
        if (!param->learns || is_held(s, t, step)) {
            continue;
        }
        const double norm = sqrt(squares_of(ref->grad[t], param->count));
        cps_update update = {.param = param->tensor.data,
                             .grad = ref->grad[t],
                             .state = {ref->state[t][0], ref->state[t][1]},
                             .count = param->count,
                             .grad_scale = cps_clip_factor(norm, s->clip_tensor) * global,
                             .lr = lr[step] * param->lr_factor,
                             .weight_decay = t == 5 || specs[t].rank < 2 ? 0 : decay[step],
                             .updates = step + (s->held && t == HELD ? 0 : 1),
                             .rank = specs[t].rank};
        lars_sums(optimizer, &update);
        cps_optimizer_update(optimizer, &update);
        for (int64_t i = 0; specs[t].bounded && i < param->count; i++) {
            update.param[i] = update.param[i] < (cps_real)0.1 ? (cps_real)0.1 : update.param[i];
            update.param[i] = update.param[i] > (cps_real)0.2 ? (cps_real)0.2 : update.param[i];
        }
    }
    reference_follow(ref, step, EMA_A, 0);
    reference_follow(ref, step, EMA_FROZEN, FROZEN);
}

static reference make_reference(void) {
    reference ref = {.params = make_params()};
    for (int32_t t = 0; t < TENSORS; t++) {
        const size_t count = (size_t)cps_params_at(ref.params, t)->count;
        ref.grad[t] = calloc(count, sizeof(cps_real));
        ref.state[t][0] = calloc(count, sizeof(cps_real));
        ref.state[t][1] = calloc(count, sizeof(cps_real));
    }
    return ref;
}

static void free_reference(reference *ref) {
    for (int32_t t = 0; t < TENSORS; t++) {
        free(ref->grad[t]);
        free(ref->state[t][0]);
        free(ref->state[t][1]);
    }
    cps_params_destroy(ref->params);
}

/* ---- the updater at work -----------------------------------------------------------------------
 */

static const double lr_table[STEPS] = {1e-2, 2e-2, 5e-3};
static const double decay_table[STEPS] = {0.1, 0.2, 0.05};

static cps_updater *make_updater(cps_comm *comm, cps_params *params, const scenario *s) {
    cps_json *json = NULL;
    CHECK(cps_json_parse(s->json, strlen(s->json), "optimizer", &json) == CPS_OK);
    const cps_updater_options options = {.comm = comm,
                                         .params = params,
                                         .parts = s->parts,
                                         .optimizer_kind = s->kind,
                                         .optimizer = json,
                                         .lr = lr_table,
                                         .weight_decay = decay_table,
                                         .steps = STEPS,
                                         .grad_clip_norm = s->clip,
                                         .clip_tensor = s->clip_tensor,
                                         .world = s->world};
    cps_updater *updater = NULL;
    size_t bytes = 0;
    CHECK(cps_updater_bytes(&options, &bytes) == CPS_OK);
    CHECK(bytes > cps_params_bytes(params) / 2);
    const cps_status status = cps_updater_create(&options, &updater);
    cps_json_destroy(json);
    if (status != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        exit(1);
    }
    const cps_numbers momentum = {.count = STEPS, .values = ema_momentum};
    CHECK(cps_updater_set_ema(updater, EMA_FROZEN, momentum) == CPS_OK);
    CHECK(cps_updater_set_ema(updater, EMA_A, momentum) == CPS_OK);
    return updater;
}

/* Leaves of the last grain are done in an order drawn at random, some of them unreported. */
static void report_leaves(cps_updater *updater, cps_params *params, int64_t step, int64_t part,
                          unsigned *seed) {
    int32_t order[TENSORS];
    for (int32_t i = 0; i < TENSORS; i++) {
        const int32_t other = (int32_t)((unsigned)rand_r(seed) % (unsigned)(i + 1));
        order[i] = order[other];
        order[other] = i;
    }
    for (int32_t i = 0; i < TENSORS; i++) {
        const int32_t t = order[i];
        if (gives(part, t)) {
            add_grain(cps_params_at(params, t), t, step, part, 1);
        }
        if (rand_r(seed) % 4 != 0) {
            cps_updater_leaf_done(updater, t);
        }
        cps_updater_poll(updater);
    }
}

static void run_parts(cps_comm *comm, cps_updater *updater, cps_params *params, int64_t step,
                      int64_t parts, int64_t poisoned, unsigned *seed) {
    const int32_t rank = cps_comm_rank(comm), size = cps_comm_size(comm);
    const cps_real global[2] = {(cps_real)0.0625, (cps_real)0.0625};
    cps_updater_add_global(updater, SCALE, &global[0]);
    cps_updater_begin(updater, parts);
    cps_updater_add_global(updater, SCALE, &global[1]);
    if (parts == 32 && rank == 0) { /* takes nothing in while the others want copies back */
        nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    }
    for (int64_t part = cps_part_first(parts, size, rank);
         part < cps_part_first(parts, size, rank + 1); part++) {
        cps_updater_part_begin(updater, part);
        for (int32_t t = 0; t < TENSORS; t++) {
            if (gives(part, t)) {
                add_grain(cps_params_at(params, t), t, step, part, 0);
            }
        }
        if (part == poisoned) {
            ((cps_real *)cps_params_at(params, HELD)->tensor.grad)[77] = (cps_real)NAN;
        }
        report_leaves(updater, params, step, part, seed);
        cps_updater_part_end(updater, part);
    }
}

static void compare(cps_comm *comm, cps_updater *updater, cps_params *params,
                    const reference *ref) {
    for (int32_t t = 0; t < TENSORS; t++) {
        const cps_param *own = cps_params_at(params, t), *want = cps_params_at(ref->params, t);
        const size_t bytes = (size_t)own->count * sizeof(cps_real);
        if (memcmp(own->tensor.data, want->tensor.data, bytes) != 0) {
            fprintf(stderr, "rank %d: %s differs\n", cps_comm_rank(comm), specs[t].name);
            failures++;
        }
        int64_t first, count;
        cps_updater_owned(updater, t, &first, &count);
        CHECK(count == 0 || (own->learns && first % CPS_CHUNK == 0));
        for (int32_t k = 0; k < cps_updater_state_count(updater) && count > 0; k++) {
            CHECK(memcmp(cps_updater_state(updater, t, k), ref->state[t][k] + first,
                         (size_t)count * sizeof(cps_real)) == 0);
        }
    }
}

/* All of a tensor is owned, by one rank each. */
static void check_ownership(cps_comm *comm, cps_updater *updater, cps_params *params) {
    int64_t bytes[64], own[TENSORS] = {0}, all[64][TENSORS];
    for (int32_t r = 0; r < cps_comm_size(comm); r++) {
        bytes[r] = (int64_t)sizeof own;
    }
    int64_t total = 0, mine = 0;
    for (int32_t t = 0; t < TENSORS; t++) {
        int64_t first;
        cps_updater_owned(updater, t, &first, &own[t]);
        mine += own[t];
        total += cps_params_at(params, t)->learns ? cps_params_at(params, t)->count : 0;
    }
    CHECK(llabs(mine - total / cps_comm_size(comm)) <= 2 * CPS_CHUNK);
    cps_comm_allgatherv(comm, "owned", own, all, bytes);
    for (int32_t t = 0; t < TENSORS; t++) {
        int64_t sum = 0;
        for (int32_t r = 0; r < cps_comm_size(comm); r++) {
            sum += all[r][t];
        }
        const cps_param *param = cps_params_at(params, t);
        CHECK(sum == (param->learns ? param->count : 0));
    }
}

static void run_scenario(cps_comm *comm, const scenario *s) {
    const int before = failures;
    reference ref = make_reference();
    cps_params *params = make_params();
    cps_updater *updater = make_updater(comm, params, s);
    check_ownership(comm, updater, params);
    cps_arena *arena;
    cps_json *json = NULL;
    cps_optimizer optimizer;
    CHECK(cps_arena_create("test", 0, true, &arena) == CPS_OK);
    CHECK(cps_json_parse(s->json, strlen(s->json), "optimizer", &json) == CPS_OK);
    CHECK(cps_optimizer_parse(s->kind, json, "optimizer", arena, &optimizer) == CPS_OK);
    unsigned seed = 17u + (unsigned)cps_comm_rank(comm);
    for (int64_t step = 0; step < STEPS; step++) {
        const int64_t parts = step + 1 == STEPS ? s->tail : s->parts;
        cps_update_norms norms;
        cps_updater_hold(updater, HELD, is_held(s, HELD, step));
        cps_updater_hold(updater, FROZEN, true); /* does not learn: nothing to hold */
        run_parts(comm, updater, params, step, parts, is_held(s, HELD, step) ? 0 : -1, &seed);
        CHECK(cps_updater_finish(updater, CPS_OK, NULL, &norms) == CPS_OK);
        reference_gradient(comm, &ref, s, step, parts);
        CHECK(norms.finite && norms.bad_rank == -1);
        CHECK(norms.grad_norm == ref.norm);
        CHECK(cps_updater_apply(updater, step) == CPS_OK);
        cps_updater_poll(updater);
        reference_step(&ref, s, &optimizer, step, lr_table, decay_table);
        cps_updater_wait_weights(updater);
        compare(comm, updater, params, &ref);
    }
    for (int32_t t = 0; t < TENSORS; t++) {
        const cps_param *param = cps_params_at(params, t);
        CHECK(param->updates == (param->learns ? STEPS - (is_held(s, t, 0) ? 1 : 0) : 0));
    }
    CHECK(cps_updater_wait_seconds(updater) >= 0);
    cps_updater_destroy(updater);
    CHECK(cps_params_at(params, 0)->tensor.grad == NULL);
    cps_params_destroy(params);
    free_reference(&ref);
    cps_json_destroy(json);
    cps_arena_destroy(arena);
    if (failures > before) {
        fprintf(stderr, "rank %d of %d: %s, %lld parts, tail %lld, %s\n", cps_comm_rank(comm),
                cps_comm_size(comm), s->kind, (long long)s->parts, (long long)s->tail,
                s->world ? "world" : "run");
    }
}

static const char adamw[] = "{\"kind\":\"adamw\",\"lr\":1,\"no_decay\":[\"c.*\"]}";
static const char sgd[] = "{\"kind\":\"sgd\",\"lr\":1,\"momentum\":0.8,\"no_decay\":[\"c.*\"]}";
static const char lars[] = "{\"kind\":\"lars\",\"lr\":1,\"no_decay\":[\"c.*\"]}";

/* ---- what goes wrong ---------------------------------------------------------------------------
 */

static void test_not_finite(cps_comm *comm) {
    const scenario s = {"adamw", adamw, 8, 8, 1.0, 0, true, false};
    const int32_t size = cps_comm_size(comm);
    cps_params *params = make_params();
    cps_updater *updater = make_updater(comm, params, &s);
    const uint64_t digest = cps_params_digest(params, "*");
    unsigned seed = 5;
    cps_update_norms norms;
    const int64_t poisoned = cps_part_first(8, size, size - 1); /* the last rank's first part */
    run_parts(comm, updater, params, 0, 8, poisoned, &seed);
    CHECK(cps_updater_finish(updater, CPS_OK, NULL, &norms) == CPS_OK);
    CHECK(!norms.finite && norms.bad_rank == size - 1 && strcmp(norms.bad_name, "c.weight") == 0);

    /* something that the caller saw, on the last rank */
    run_parts(comm, updater, params, 0, 8, -1, &seed);
    const char *flagged = cps_comm_rank(comm) == size - 1 ? "loss" : NULL;
    CHECK(cps_updater_finish(updater, CPS_OK, flagged, &norms) == CPS_OK);
    CHECK(!norms.finite && norms.bad_rank == size - 1 && strcmp(norms.bad_name, "loss") == 0);

    /* a skipped step moves nothing, and the next one is clean */
    CHECK(cps_params_digest(params, "*") == digest && cps_params_at(params, 0)->updates == 0);
    run_parts(comm, updater, params, 0, 8, -1, &seed);
    CHECK(cps_updater_finish(updater, CPS_OK, NULL, &norms) == CPS_OK && norms.finite);
    CHECK(cps_updater_apply(updater, 0) == CPS_OK);
    cps_updater_wait_weights(updater);
    CHECK(cps_params_digest(params, "*") != digest && cps_params_at(params, 0)->updates == 1);
    cps_updater_destroy(updater);
    cps_params_destroy(params);
}

static void test_failing_rank(cps_comm *comm) {
    const scenario s = {"adamw", adamw, 6, 6, 0, 0, true, false};
    const int32_t last = cps_comm_size(comm) - 1;
    cps_params *params = make_params();
    cps_updater *updater = make_updater(comm, params, &s);
    unsigned seed = 5;
    cps_update_norms norms;
    run_parts(comm, updater, params, 0, 6, -1, &seed);
    const bool mine = cps_comm_rank(comm) == last;
    const cps_status own = mine ? cps_fail(CPS_ERR_DATA, "a head that failed") : CPS_OK;
    const cps_status status = cps_updater_finish(updater, own, NULL, &norms);
    CHECK(status == (mine ? CPS_ERR_DATA : CPS_ERR_PEER));
    CHECK(strstr(cps_fail_message(), "a head that failed") != NULL);
    CHECK(cps_agreed_code(comm) == CPS_ERR_DATA);
    cps_updater_destroy(updater);
    cps_params_destroy(params);
}

static void test_wrong_options(cps_comm *comm) {
    cps_params *params = make_params();
    cps_updater *updater = NULL;
    cps_json *json = NULL;
    const char text[] = "{\"lr\":1,\"no_decay\":[\"nothing.*\"]}";
    CHECK(cps_json_parse(text, strlen(text), "optimizer", &json) == CPS_OK);
    const cps_updater_options options = {.comm = comm,
                                         .params = params,
                                         .parts = 8,
                                         .optimizer_kind = "adamw",
                                         .optimizer = json,
                                         .lr = lr_table,
                                         .weight_decay = decay_table,
                                         .steps = STEPS,
                                         .world = true};
    CHECK(cps_updater_create(&options, &updater) != CPS_OK && updater == NULL);
    CHECK(strstr(cps_fail_message(), "nothing.*") != NULL);
    cps_json_destroy(json);

    const scenario s = {"adamw", adamw, 8, 8, 0, 0, true, false};
    updater = make_updater(comm, params, &s);
    const double two[2] = {0.9, 0.9}, large[1] = {1.5};
    CHECK(cps_updater_set_ema(updater, EMA_A, (cps_numbers){2, two}) == CPS_ERR_USAGE);
    CHECK(cps_updater_set_ema(updater, EMA_A, (cps_numbers){1, large}) == CPS_ERR_USAGE);
    cps_updater_destroy(updater);

    /* a rank that would learn something else */
    if (cps_comm_size(comm) > 1) {
        cps_params_at(params, 1)->lr_factor = cps_comm_rank(comm) == 1 ? 3 : 1;
        CHECK(cps_json_parse(adamw, strlen(adamw), "optimizer", &json) == CPS_OK);
        cps_updater_options other = options;
        other.optimizer = json;
        updater = NULL;
        CHECK(cps_updater_create(&other, &updater) != CPS_OK && updater == NULL);
        CHECK(strstr(cps_fail_message(), "what learns") != NULL);
        cps_json_destroy(json);
    }
    cps_params_destroy(params);
}

int main(int argc, char **argv) {
    cps_comm *comm = NULL;
    if (cps_comm_start(&argc, &argv, &comm) != CPS_OK) {
        fprintf(stderr, "%s\n", cps_fail_message());
        return 1;
    }
    if (cps_pool_start(1 + cps_comm_rank(comm) % 2) != CPS_OK) {
        return 1;
    }
    const scenario scenarios[] = {
        {"adamw", adamw, 6, 2, 1.0, 0, true, true},
        {"adamw", adamw, 8, 3, 0, 0.5, true, false},
        {"adamw", adamw, 13, 1, 0, 0, true, false},
        {"sgd", sgd, 13, 7, 2.0, 0, true, false},
        {"lars", lars, 6, 6, 0, 0, true, true},
        {"adamw", adamw, 8, 2, 1.0, 0, false, false},
        {"sgd", sgd, 6, 5, 1.0, 0, false, false},
        {"sgd", sgd, 32, 21, 1.0, 0, true,
         false}, /* 3 ranks: copies of sent nodes are used again */
    };
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        run_scenario(comm, &scenarios[i]);
    }
    test_not_finite(comm);
    test_failing_rank(comm);
    test_wrong_options(comm);
    const bool failed = cps_agree_any(comm, "result", failures > 0);
    cps_pool_stop();
    cps_comm_end(comm);
    return failed ? 1 : 0;
}
