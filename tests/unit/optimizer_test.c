/* Optimizers and schedules. Wanted values, in float64: PyTorch 2.15's AdamW and SGD, DINO's LARS
 * written out in numpy, open_clip's cosine. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "train/optimizer.h"
#include "train/schedule.h"

enum { ELEMENTS = 3, STEPS = 3 };

static const double start[ELEMENTS] = {1.0, -2.0, 0.5};
static const double grads[STEPS][ELEMENTS] = {{0.1, -0.2, 0.3}, {0.5, 0.0, -0.1}, {-0.3, 0.2, 0.4}};
static const double rates[STEPS] = {0.1, 0.05, 0.2};

/* Three steps in slices of `slice` elements, the gradient held `shrink` times too small. */
static void check(const cps_optimizer *optimizer, double decay, int32_t rank, int64_t slice,
                  double shrink, const double *wanted) {
    cps_real param[ELEMENTS], grad[ELEMENTS], first[ELEMENTS] = {0}, second[ELEMENTS] = {0};
    for (int32_t i = 0; i < ELEMENTS; i++) {
        param[i] = (cps_real)start[i];
    }
    for (int32_t step = 0; step < STEPS; step++) {
        cps_update slices[ELEMENTS];
        double param_squares = 0, step_squares = 0;
        int32_t count = 0;
        for (int64_t at = 0; at < ELEMENTS; at += slice, count++) {
            slices[count] = (cps_update){.param = param + at,
                                         .grad = grad + at,
                                         .state = {first + at, second + at},
                                         .count = at + slice < ELEMENTS ? slice : ELEMENTS - at,
                                         .grad_scale = shrink,
                                         .lr = rates[step],
                                         .weight_decay = decay,
                                         .updates = step + 1,
                                         .rank = rank};
            for (int64_t i = 0; i < slices[count].count; i++) {
                grad[at + i] = (cps_real)(grads[step][at + i] / shrink);
            }
            double a = 0, b = 0;
            cps_optimizer_norms(optimizer, &slices[count], &a, &b);
            param_squares += a;
            step_squares += b;
        }
        for (int32_t i = 0; i < count; i++) {
            slices[i].param_squares = param_squares;
            slices[i].step_squares = step_squares;
            cps_optimizer_update(optimizer, &slices[i]);
        }
    }
    for (int32_t i = 0; i < ELEMENTS; i++) {
        const double limit = sizeof(cps_real) == sizeof(double) ? 1e-14 : 1e-6;
        if (!(fabs((double)param[i] - wanted[i]) < limit)) {
            fail_msg("element %d: %.17g, wanted %.17g", i, (double)param[i], wanted[i]);
        }
    }
}

static void check_all(const cps_optimizer *optimizer, double decay, int32_t rank,
                      const double *wanted) {
    for (int64_t slice = 1; slice <= ELEMENTS; slice++) {
        check(optimizer, decay, rank, slice, 1, wanted);
        check(optimizer, decay, rank, slice, 0.25, wanted);
    }
}

static void test_adamw(void **state) {
    (void)state;
    const cps_optimizer adamw = {
        .kind = CPS_OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-6};
    const double wanted[] = {0.74540639667927966, -1.752599171088844, 0.21312092929874976};
    check_all(&adamw, 0.2, 2, wanted);
    assert_int_equal(cps_optimizer_state_count(&adamw), 2);
    assert_string_equal(cps_optimizer_state_name(&adamw, 0), "exp_avg");
    assert_string_equal(cps_optimizer_state_name(&adamw, 1), "exp_avg_sq");
    assert_false(cps_optimizer_needs_norms(&adamw, 2));
}

static void test_sgd(void **state) {
    (void)state;
    const cps_optimizer sgd = {.kind = CPS_OPTIMIZER_SGD, .momentum = 0.9};
    const double wanted[] = {0.907038189, -1.963976378, 0.3473640695};
    check_all(&sgd, 0.01, 2, wanted);
    assert_int_equal(cps_optimizer_state_count(&sgd), 1);
    assert_string_equal(cps_optimizer_state_name(&sgd, 0), "momentum");
}

static void test_lars(void **state) {
    (void)state;
    const cps_optimizer lars = {.kind = CPS_OPTIMIZER_LARS, .momentum = 0.9, .eta = 0.001};
    const double vector[] = {0.9143, -1.9786, 0.3509};
    const double matrix[] = {0.99953574201224227, -1.9997404620442911, 0.49919851018100847};
    check_all(&lars, 0.01, 1, vector);
    check_all(&lars, 0.01, 2, matrix);
    assert_true(cps_optimizer_needs_norms(&lars, 2));
    assert_true(cps_optimizer_needs_norms(&lars, 0));
    assert_false(cps_optimizer_needs_norms(&lars, 1));
    /* a matrix of zeros takes the plain step */
    cps_real zero[1] = {0}, grad[1] = {1}, momentum[1] = {0};
    const cps_update update = {.param = zero,
                               .grad = grad,
                               .state = {momentum},
                               .count = 1,
                               .grad_scale = 1,
                               .lr = 0.5,
                               .updates = 1,
                               .rank = 2,
                               .step_squares = 1};
    cps_optimizer_update(&lars, &update);
    assert_true(zero[0] == (cps_real)-0.5);
}

/* The owner of a chunk may cut it as it likes: same bits. */
static void test_slices_change_no_bit(void **state) {
    (void)state;
    enum { MANY = 1000 };
    static cps_real whole[4][MANY], parts[4][MANY];
    const cps_optimizer adamw = {
        .kind = CPS_OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-6};
    for (int32_t i = 0; i < 2; i++) {
        cps_fill_normal(1, i == 0 ? "p" : "g", 1, whole[i], MANY);
        memcpy(parts[i], whole[i], sizeof whole[i]);
    }
    cps_update update = {.param = whole[0],
                         .grad = whole[1],
                         .state = {whole[2], whole[3]},
                         .count = MANY,
                         .grad_scale = 0.7,
                         .lr = 0.01,
                         .weight_decay = 0.1,
                         .updates = 3,
                         .rank = 2};
    cps_optimizer_update(&adamw, &update);
    for (int64_t at = 0; at < MANY; at += update.count) {
        update.param = parts[0] + at;
        update.grad = parts[1] + at;
        update.state[0] = parts[2] + at;
        update.state[1] = parts[3] + at;
        update.count = at == 0 ? 17 : at < 500 ? 64 : MANY - at;
        cps_optimizer_update(&adamw, &update);
    }
    assert_memory_equal(whole, parts, sizeof whole);
}

static void test_clip_factor(void **state) {
    (void)state;
    assert_true(cps_clip_factor(10, 0) == 1);
    assert_true(cps_clip_factor(0.5, 1) == 1);
    assert_true(cps_clip_factor(0, 1) == 1);
    assert_true(cps_clip_factor(10, 1) == 1 / (10 + 1e-6));
}

/* ---- options ---- */

static cps_status parse(const char *kind, const char *text, cps_arena *arena, cps_optimizer *out) {
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &json), CPS_OK);
    const cps_status status = cps_optimizer_parse(kind, json, "stages[1].optimizer", arena, out);
    cps_json_destroy(json);
    return status;
}

static void test_options(void **state) {
    (void)state;
    cps_arena *arena = NULL;
    cps_optimizer optimizer = {0};
    assert_int_equal(cps_arena_create("options", 4096, true, &arena), CPS_OK);
    assert_int_equal(parse("adamw", "{\"kind\": \"adamw\", \"lr\": 0.001, \"no_decay\": [\"x\"]}",
                           arena, &optimizer),
                     CPS_OK);
    assert_int_equal(optimizer.kind, CPS_OPTIMIZER_ADAMW);
    assert_int_equal(optimizer.lr.count, 1);
    assert_true(optimizer.lr.values[0] == 0.001 && optimizer.weight_decay.values[0] == 0.2);
    assert_true(optimizer.beta1 == 0.9 && optimizer.beta2 == 0.98 && optimizer.eps == 1e-6);
    assert_int_equal(parse("sgd", "{\"lr\": [1, 2, 3], \"momentum\": 0.5}", arena, &optimizer),
                     CPS_OK);
    assert_int_equal(optimizer.kind, CPS_OPTIMIZER_SGD);
    assert_true(cps_numbers_at(optimizer.lr, 2) == 3 && optimizer.momentum == 0.5);
    assert_int_equal(parse("lars", "{\"lr\": 1}", arena, &optimizer), CPS_OK);
    assert_true(optimizer.eta == 0.001 && optimizer.momentum == 0.9);
    assert_int_equal(parse("adamw", "{}", arena, &optimizer), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "lr"));
    assert_int_equal(parse("adamw", "{\"lr\": 1, \"weight_dacay\": 1}", arena, &optimizer),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "weight_decay"));
    assert_int_equal(parse("adamw", "{\"lr\": 1, \"beta1\": 1}", arena, &optimizer), CPS_ERR_USAGE);
    assert_int_equal(parse("adam", "{\"lr\": 1}", arena, &optimizer), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "adamw"));
    cps_arena_destroy(arena);
}

/* ---- schedules ---- */

static void test_cosine(void **state) {
    (void)state;
    const double wanted[] = {0.001,
                             0.002,
                             0.0030000000000000005,
                             0.003,
                             0.002713525491562421,
                             0.0019635254915624212,
                             0.0010364745084375791,
                             0.00028647450843757898};
    const double base = 0.003;
    const cps_schedule cosine = {.kind = CPS_SCHEDULE_COSINE, .warmup_steps = 3};
    double values[8];
    assert_int_equal(cps_schedule_tabulate(&cosine, (cps_numbers){1, &base}, "s", 8, 0, values),
                     CPS_OK);
    for (int32_t i = 0; i < 8; i++) {
        assert_true(fabs(values[i] - wanted[i]) < 1e-17);
    }
    const cps_schedule raised = {.kind = CPS_SCHEDULE_COSINE, .final = 0.001};
    assert_int_equal(cps_schedule_tabulate(&raised, (cps_numbers){1, &base}, "s", 8, 0, values),
                     CPS_OK);
    assert_true(values[0] == base && fabs(values[4] - 0.002) < 1e-18 && values[7] > 0.001);
}

static void test_constant_and_tables(void **state) {
    (void)state;
    const double base = 2, table[] = {5, 6, 7};
    const cps_schedule constant = {.kind = CPS_SCHEDULE_CONSTANT};
    const cps_schedule warm = {.kind = CPS_SCHEDULE_CONSTANT, .warmup_steps = 2};
    double values[3];
    assert_int_equal(cps_schedule_tabulate(&constant, (cps_numbers){1, &base}, "s", 3, 0, values),
                     CPS_OK);
    assert_true(values[0] == 2 && values[2] == 2);
    assert_int_equal(cps_schedule_tabulate(&warm, (cps_numbers){1, &base}, "s", 3, 0, values),
                     CPS_OK);
    assert_true(values[0] == 1 && values[1] == 2 && values[2] == 2);
    assert_int_equal(cps_schedule_tabulate(&constant, (cps_numbers){3, table}, "s", 3, 0, values),
                     CPS_OK);
    assert_true(values[1] == 6);
    assert_int_equal(cps_schedule_tabulate(&constant, (cps_numbers){3, table}, "s", 4, 0, values),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "3 values"));
    assert_int_equal(cps_schedule_tabulate(&warm, (cps_numbers){3, table}, "s", 3, 0, values),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "already"));
    const cps_schedule late = {.kind = CPS_SCHEDULE_COSINE, .warmup_steps = 4};
    assert_int_equal(cps_schedule_tabulate(&late, (cps_numbers){1, &base}, "s", 3, 0, values),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "only 3 steps"));
}

/* The base comes twice, the final value never. Numbers: numpy's linspace, then the cosine of
 * agriclip.md 2.2.6. */
static void test_dino_tables(void **state) {
    (void)state;
    const double wanted[] = {
        0.0,      0.0006666666666666666, 0.0013333333333333333, 0.002,
        0.002,    0.0019242601348487302, 0.001708571247280615,  0.0013857700152032644,
        0.001005, 0.0006242299847967357, 0.0003014287527193853, 8.573986515126981e-05};
    const double base = 0.002, decay = 0.04, table[] = {1, 2};
    const cps_schedule schedule = {.kind = CPS_SCHEDULE_COSINE,
                                   .warmup_epochs = 1,
                                   .warmup = CPS_WARMUP_LINSPACE,
                                   .final = 1e-5,
                                   .final_weight_decay = 0.4};
    double values[12];
    assert_int_equal(cps_schedule_tabulate(&schedule, (cps_numbers){1, &base}, "s", 12, 4, values),
                     CPS_OK);
    for (int32_t i = 0; i < 12; i++) {
        assert_true(fabs(values[i] - wanted[i]) < 1e-17);
    }
    assert_int_equal(cps_schedule_tabulate(&schedule, (cps_numbers){1, &base}, "s", 3, 4, values),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "warmup_epochs is 1 of 4 steps"));
    assert_int_equal(cps_schedule_weight_decay(&schedule, (cps_numbers){1, &decay}, "s", 8, values),
                     CPS_OK);
    assert_true(fabs(values[0] - decay) < 1e-16 && fabs(values[4] - 0.22) < 1e-15);
    assert_true(values[7] > 0.37 && values[7] < 0.4);
    assert_int_equal(cps_schedule_weight_decay(&schedule, (cps_numbers){2, table}, "s", 2, values),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "take out final_weight_decay"));
    const cps_schedule both = {.kind = CPS_SCHEDULE_COSINE, .warmup_steps = 1, .warmup_epochs = 1};
    assert_int_equal(cps_schedule_tabulate(&both, (cps_numbers){1, &base}, "s", 8, 2, values),
                     CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "give one of them"));
    const cps_schedule stays = {.kind = CPS_SCHEDULE_COSINE, .final_weight_decay = -1};
    assert_int_equal(cps_schedule_weight_decay(&stays, (cps_numbers){2, table}, "s", 2, values),
                     CPS_OK);
    assert_true(values[0] == 1 && values[1] == 2);
}

static void test_schedule_options(void **state) {
    (void)state;
    cps_arena *arena = NULL;
    cps_schedule schedule = {0};
    assert_int_equal(cps_arena_create("options", 4096, true, &arena), CPS_OK);
    const char text[] = "{\"kind\": \"cosine\", \"warmup_steps\": 10}";
    cps_json *json = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "test", &json), CPS_OK);
    assert_int_equal(cps_schedule_parse("cosine", json, "s", arena, &schedule), CPS_OK);
    assert_int_equal(schedule.warmup_steps, 10);
    assert_int_equal(schedule.kind, CPS_SCHEDULE_COSINE);
    assert_int_equal(cps_schedule_parse("constant", NULL, "s", arena, &schedule), CPS_OK);
    assert_int_equal(schedule.kind, CPS_SCHEDULE_CONSTANT);
    assert_int_equal(cps_schedule_parse("cosin", json, "s", arena, &schedule), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "cosine"));
    cps_json_destroy(json);
    cps_arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw),       cmocka_unit_test(test_sgd),
        cmocka_unit_test(test_lars),        cmocka_unit_test(test_slices_change_no_bit),
        cmocka_unit_test(test_clip_factor), cmocka_unit_test(test_options),
        cmocka_unit_test(test_cosine),      cmocka_unit_test(test_constant_and_tables),
        cmocka_unit_test(test_dino_tables), cmocka_unit_test(test_schedule_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
