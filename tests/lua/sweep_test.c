/* Sweeps that are right: which trials they make, that draws depend on nothing but their key, what
 * is not read, and that a run's text is the job that was meant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lua/support.h"

static char *lua_folder;

#define HEAD "local copse = require 'copse'\nreturn copse.sweep { name = 's', "
#define JOB(fields, lr)                                                                            \
    "job = function(p) return copse.job { " fields                                                 \
    " model = copse.model { preset = 'ViT-B-32' }, data = { a = copse.shards { 'a.h5' } },\n"      \
    "  stages = { copse.stage { objective = copse.objective.clip {}, steps = 10, global_batch = "  \
    "32,\n    optimizer = copse.adamw { lr = " lr " } } } } end }\n"

static cps_json *expand(const char *text) {
    cps_json *sweep = NULL;
    if (expand_text(lua_folder, "sweep.lua", text, NULL, 0, &sweep) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return sweep;
}

static const cps_json *trial_at(const cps_json *sweep, int64_t index) {
    return cps_json_at(cps_json_get(sweep, "trials"), index);
}

static int64_t trials_of(const cps_json *sweep) {
    return cps_json_count(cps_json_get(sweep, "trials"));
}

static double value_of(const cps_json *sweep, int64_t trial, const char *name) {
    const cps_json *value = cps_json_get(cps_json_get(trial_at(sweep, trial), "values"), name);
    assert_true(cps_json_is_number(value));
    return cps_json_number(value);
}

static const char *digest_of(const cps_json *sweep, int64_t trial, int64_t run) {
    return cps_json_get_string(cps_json_at(cps_json_get(trial_at(sweep, trial), "runs"), run),
                               "digest", NULL);
}

static const char *source_of(const cps_json *sweep, int64_t trial, int64_t run) {
    return cps_json_get_string(cps_json_at(cps_json_get(trial_at(sweep, trial), "runs"), run),
                               "source", NULL);
}

static void test_grid(void **unused) {
    (void)unused;
    cps_json *sweep = expand(HEAD "space = { b = { true, false }, a = copse.integer(3, 5) }, seeds "
                                  "= { 7, 9 }, " JOB("seed = p.seed,", "p.b and p.a or 1"));
    static const double a[] = {3, 3, 4, 4, 5, 5};
    assert_int_equal(trials_of(sweep), 6);
    for (int64_t i = 0; i < 6; i++) {
        const cps_json *values = cps_json_get(trial_at(sweep, i), "values");
        assert_int_equal(cps_json_get_bool(values, "b", i % 2 != 0), i % 2 == 0);
        assert_int_equal(cps_json_get_integer(trial_at(sweep, i), "number", 0), i + 1);
        if (i % 2 == 0) { /* where b is false, a is not read: it is no value of the trial */
            assert_true(value_of(sweep, i, "a") == a[i]);
        } else {
            assert_null(cps_json_get(values, "a"));
            assert_string_equal(cps_json_string(cps_json_path(trial_at(sweep, i), "unused.0")),
                                "a");
            assert_string_equal(digest_of(sweep, i, 0), digest_of(sweep, 1, 0));
        }
        assert_string_not_equal(digest_of(sweep, i, 0), digest_of(sweep, i, 1)); /* seeds */
    }
    cps_json_destroy(sweep);
}

#define RANDOM(trials, more)                                                                       \
    HEAD "space = { lr = copse.log_uniform(1e-5, 1e-3), u = copse.uniform(-2, 3), k = "            \
         "copse.integer(1, 8), " more " }, search = copse.random { trials = " trials               \
         ", seed = 7 }, " JOB("seed = math.floor(p.u * 0) + p.k * 0,", "p.lr")

/* Draws hang on (seed, trial, name) alone: trials and parameters that come later move nothing. */
static void test_draws_stay(void **unused) {
    (void)unused;
    cps_json *few = expand(RANDOM("5", "")),
             *more = expand(RANDOM("40", "a = { 1, 2, 3 }, z = copse.uniform(0, 1)"));
    static const char *const names[] = {"lr", "u", "k"};
    assert_int_equal(trials_of(few), 5);
    assert_int_equal(trials_of(more), 40);
    for (int64_t i = 0; i < 5; i++) {
        for (int n = 0; n < 3; n++) {
            assert_true(value_of(few, i, names[n]) == value_of(more, i, names[n]));
        }
        assert_string_equal(digest_of(few, i, 0), digest_of(more, i, 0));
    }
    /* The values themselves: another machine, compiler or version must draw the same. */
    assert_non_null(strstr(source_of(few, 0, 0), "lr = 2.47478e-05"));
    assert_non_null(strstr(source_of(few, 4, 0), "lr = 0.000359"));
    assert_true(value_of(few, 0, "k") == 5 && value_of(few, 4, "k") == 6);
    assert_true(value_of(few, 0, "lr") == 2.47478e-05);
    cps_json_destroy(few);
    cps_json_destroy(more);
}

static void test_ranges(void **unused) {
    (void)unused;
    cps_json *sweep = expand(RANDOM("500", ""));
    int64_t below = 0, seen[9] = {0};
    double sum = 0;
    for (int64_t i = 0; i < 500; i++) {
        const double lr = value_of(sweep, i, "lr"), u = value_of(sweep, i, "u"),
                     k = value_of(sweep, i, "k");
        assert_true(lr >= 1e-5 && lr <= 1e-3 && u >= -2 && u <= 3 && k >= 1 && k <= 8);
        below += lr < 1e-4;
        sum += u;
        seen[(int)k]++;
    }
    /* Half of the draws lie below the geometric mean; 4 standard deviations of 500 draws. */
    assert_in_range(below, 205, 295);
    assert_true(sum / 500 > 0.5 - 0.26 && sum / 500 < 0.5 + 0.26);
    for (int k = 1; k <= 8; k++) {
        assert_in_range(seen[k], 33, 92);
    }
    cps_json_destroy(sweep);
}

/* The text of a run is a job that resolves to the run's job, functions of p included. */
static void test_source_is_the_job(void **unused) {
    (void)unused;
    cps_json *sweep = expand(HEAD "space = { lr = { 0.5 }, far = { 3 } }, seeds = { 5 }, " JOB(
        "seed = p.seed,", "function(step, total) return step < total / 2 and p.lr or p.far end"));
    cps_job *job = NULL;
    double values[4];
    assert_int_equal(load_text(lua_folder, "run.lua", source_of(sweep, 0, 0), NULL, 0, &job),
                     CPS_OK);
    assert_int_equal(cps_job_tabulate(job, "stages[1].optimizer.lr", 4, values), CPS_OK);
    assert_true(values[1] == 0.5 && values[2] == 3.0);
    const cps_json *json = cps_job_json(job);
    assert_int_equal(cps_json_get_integer(json, "seed", 0), 5);
    assert_string_equal(cps_json_get_string(json, "name", ""), "s"); /* the sweep's, by default */
    assert_null(cps_json_path(trial_at(sweep, 0), "unused.0")); /* a function may use all of p */
    cps_job_destroy(job);
    cps_json_destroy(sweep);
}

static void test_parameters_can_be_walked(void **unused) {
    (void)unused;
    cps_json *sweep = expand(
        HEAD "space = { x = { 1, 2 }, y = { 10 } }, job = function(p)\n"
             "  local sum = 0\n"
             "  for name, value in pairs(p) do sum = sum + value end\n"
             "  return copse.job { seed = sum, name = 'own', model = copse.model { preset = "
             "'ViT-B-32' }, data = { a = copse.shards { 'a.h5' } }, stages = { copse.stage { "
             "objective = copse.objective.clip {}, steps = 10, global_batch = 32, optimizer = "
             "copse.adamw { lr = 1 } } } } end }\n");
    assert_non_null(strstr(source_of(sweep, 0, 0), "seed = 12,"));
    assert_non_null(strstr(source_of(sweep, 1, 0), "seed = 13,"));
    assert_non_null(strstr(source_of(sweep, 1, 0), "name = \"own\","));
    cps_json_destroy(sweep);
}

static void test_halving(void **unused) {
    (void)unused;
    cps_json *sweep = expand(
        HEAD "space = { lr = copse.uniform(0, 1) },\n"
             "search = copse.halving { metric = 'v.loss', min_steps = 1, max_steps = 10 },\n" JOB(
                 "evaluate = { copse.validation_loss { name = 'v', data = 'a' } },", "p.lr"));
    static const int64_t rungs[] = {1, 3, 9, 10};
    const cps_json *search = cps_json_get(sweep, "search");
    assert_int_equal(trials_of(sweep), 27); /* as many as leave one */
    assert_int_equal(cps_json_count(cps_json_get(search, "rungs")), 4);
    for (int64_t i = 0; i < 4; i++) {
        assert_int_equal((int64_t)cps_json_number(cps_json_at(cps_json_get(search, "rungs"), i)),
                         rungs[i]);
    }
    assert_string_equal(cps_json_string(cps_json_path(search, "metric.name")), "v.loss");
    assert_true(cps_json_get_bool(cps_json_get(search, "metric"), "falls", false));
    cps_json_destroy(sweep);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid),
        cmocka_unit_test(test_draws_stay),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_source_is_the_job),
        cmocka_unit_test(test_parameters_can_be_walked),
        cmocka_unit_test(test_halving),
    };
    lua_folder = test_lua_folder();
    char *folder = test_folder();
    const int failed = cmocka_run_group_tests_name("sweeps", tests, NULL, NULL);
    remove_test_folder(folder);
    free(lua_folder);
    return failed;
}
