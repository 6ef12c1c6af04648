/* The mixing law (lua/copse/mixing_law.lua) called as the C side calls it, and in a job. What its
 * mistakes say is in errors.cases; the published fits are in tests/vectors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "job/library.h"
#include "tests/lua/support.h"

static char *lua_folder;

/* `arguments`: JSON text of the list, in which each %s stands for one of `fits`, first results of
 * earlier calls. */
static cps_json *call(const char *function, const char *arguments, const cps_json *const *fits) {
    char *text = cps_format("%s", arguments);
    for (char *at = strstr(text, "%s"); at != NULL; at = strstr(text, "%s")) {
        char *fit = cps_json_print(cps_json_at(*fits++, 0), false, false);
        char *longer = cps_format("%.*s%s%s", (int)(at - text), text, fit, at + 2);
        free(text);
        free(fit);
        text = longer;
    }
    cps_json *list = NULL, *results = NULL;
    assert_int_equal(cps_json_parse(text, strlen(text), "arguments", &list), CPS_OK);
    if (cps_library_call(lua_folder, "copse.mixing_law", function, list, 100, &results) != CPS_OK) {
        fail_msg("%s: %s", function, cps_fail_message());
    }
    cps_json_destroy(list);
    free(text);
    return results;
}

static double number(const cps_json *results, const char *path) {
    return cps_json_number(cps_json_path(cps_json_at(results, 0), path));
}

static void assert_near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) {
        fail_msg("%.12g is not %.12g to %g", got, want, tolerance);
    }
}

/* [[shares], [losses], options] */
static char *curve_text(const double *x, const double *y, int count, const char *options) {
    char *shares = cps_format("%s", ""), *losses = cps_format("%s", "");
    for (int i = 0; i < count; i++) {
        char *more = cps_format("%s%s%.17g", shares, i > 0 ? "," : "", x[i]);
        char *loss = cps_format("%s%s%.17g", losses, i > 0 ? "," : "", y[i]);
        free(shares);
        free(losses);
        shares = more;
        losses = loss;
    }
    char *text = cps_format("[[%s],[%s],%s]", shares, losses, options);
    free(shares);
    free(losses);
    return text;
}

/* The worked reference of the continual form: a published curve of language models. */
static const char published[] = "[[0.125,0.25,0.375,0.5],[2.92617,2.88049,2.85707,2.83876]]";

static void test_published_curve(void **unused) {
    (void)unused;
    cps_json *fit = call("fit", published, NULL);
    assert_near(number(fit, "c"), 2.81034, 1e-5);
    assert_near(number(fit, "k"), -3.740, 2e-3);
    assert_near(number(fit, "b"), -1.694, 1e-3);
    assert_true(number(fit, "correlation") > 0.99 && number(fit, "correlation") <= 1.0);
    assert_int_equal(cps_json_count(cps_json_path(fit, "0.residuals")), 4);
    const cps_json *fits[] = {fit};
    cps_json *down = call("critical_share", "[%s, 2.87337]", fits);
    cps_json *up = call("critical_share", "[%s, 2.87337, {\"round\": \"up\", \"grid\": 8}]", fits);
    assert_near(number(down, "share"), 0.2862, 1e-4);
    assert_near(number(down, "rounded"), 73.0 / 256.0, 0.0);
    assert_near(number(up, "rounded"), 3.0 / 8.0, 0.0);
    cps_json_destroy(fit);
    cps_json_destroy(down);
    cps_json_destroy(up);
}

/* Above any loss of the curve: nothing is needed. Below its loss at all general data: all of it. */
static void test_share_is_kept_in_range(void **unused) {
    (void)unused;
    cps_json *fit = call("fit", published, NULL);
    const cps_json *fits[] = {fit};
    cps_json *none = call("critical_share", "[%s, 4]", fits);
    cps_json *all = call("critical_share", "[%s, 2.811]", fits);
    assert_true(number(none, "exact") < 0.0);
    assert_near(number(none, "share"), 0.0, 0.0);
    assert_near(number(none, "rounded"), 0.0, 0.0);
    assert_true(number(all, "exact") > 1.0);
    assert_near(number(all, "share"), 1.0, 0.0);
    assert_near(number(all, "rounded"), 1.0, 0.0);
    cps_json_destroy(fit);
    cps_json_destroy(none);
    cps_json_destroy(all);
}

/* Huber's gradient at the fit, by formulas of its own; points off the curve included. */
static void test_fit_is_a_minimum(void **unused) {
    (void)unused;
    const double x[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.2, 0.4};
    const double y[] = {2.71, 2.35, 2.22, 2.11, 2.06, 2.52, 2.0};
    static const double deltas[] = {0.02, 0.005, 10.0};
    for (size_t d = 0; d < sizeof deltas / sizeof deltas[0]; d++) {
        char *options = cps_format("{\"delta\": %g}", deltas[d]);
        char *text = curve_text(x, y, 7, options);
        cps_json *fit = call("fit", text, NULL);
        const double c = number(fit, "c"), k = number(fit, "k"), b = number(fit, "b");
        double by_k = 0.0, by_b = 0.0;
        int outside = 0;
        for (int i = 0; i < 7; i++) {
            const double term = exp(k * x[i] + b), e = term - (y[i] - c);
            const double slope = fmax(-deltas[d], fmin(deltas[d], e));
            assert_near(cps_json_number(cps_json_at(cps_json_path(fit, "0.residuals"), i)), e,
                        1e-12);
            by_k += slope * term * x[i];
            by_b += slope * term;
            outside += fabs(e) > deltas[d];
        }
        assert_true(fabs(by_k) < 2e-12 && fabs(by_b) < 2e-12);
        assert_true(number(fit, "gradient") < 1e-12);
        assert_true(deltas[d] > 1.0 ? outside == 0 : outside > 0);
        cps_json_destroy(fit);
        free(options);
        free(text);
    }
}

/* Losses on a law: its predictions between and beyond the points. */
static void test_law_is_found_again(void **unused) {
    (void)unused;
    double x[5], y[5];
    for (int i = 0; i < 5; i++) {
        x[i] = 0.1 * (i + 1);
        y[i] = 1.9 + exp(-3.2 * x[i] - 0.55);
    }
    char *text = curve_text(x, y, 5, "{}");
    cps_json *fit = call("fit", text, NULL);
    const cps_json *fits[] = {fit};
    static const double at[] = {0.0, 0.25, 0.8};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        char *ask = cps_format("[%%s, %g]", at[i]);
        cps_json *loss = call("predict", ask, fits);
        assert_near(cps_json_number(cps_json_at(loss, 0)), 1.9 + exp(-3.2 * at[i] - 0.55), 2e-3);
        cps_json_destroy(loss);
        free(ask);
    }
    cps_json_destroy(fit);
    free(text);
}

/* The weighted optimum against a search in small steps, inside and at both ends. */
static void test_optimum(void **unused) {
    (void)unused;
    static const double weights[][2] = {{0.5, 0.5}, {0.9, 0.1}, {1e-4, 1.0}, {1.0, 1e-4}};
    const double c = 1.9, k = -3.0, b = -0.5, tc = 1.1, tk = -1.7, tb = 0.4;
    static const char laws[] = "{\"kind\":\"share\",\"c\":1.9,\"k\":-3,\"b\":-0.5},"
                               "{\"kind\":\"share\",\"c\":1.1,\"k\":-1.7,\"b\":0.4}";
    for (size_t w = 0; w < sizeof weights / sizeof weights[0]; w++) {
        char *text =
            cps_format("[%s,{\"general\":%g,\"target\":%g}]", laws, weights[w][0], weights[w][1]);
        cps_json *found = call("optimum", text, NULL);
        double best = 0.0, least = (double)INFINITY;
        for (int i = 0; i <= 100000; i++) {
            const double share = i / 100000.0;
            const double value = weights[w][0] * (c + exp(k * share + b)) +
                                 weights[w][1] * (tc + exp(tk * (1.0 - share) + tb));
            best = value < least ? share : best;
            least = fmin(least, value);
        }
        assert_near(number(found, "share"), best, 2e-5);
        assert_near(number(found, "value"), least, 1e-9);
        assert_true(w < 2 ? best > 0.0 && best < 1.0 : best < 1e-9 || best > 1.0 - 1e-9);
        cps_json_destroy(found);
        free(text);
    }
}

/* ---- mixtures ---- */

static const double mixtures[8][3] = {{0.6, 0.3, 0.1}, {0.1, 0.6, 0.3},  {0.3, 0.1, 0.6},
                                      {0.2, 0.2, 0.6}, {0.8, 0.1, 0.1},  {0.1, 0.1, 0.8},
                                      {0.0, 0.5, 0.5}, {0.4, 0.35, 0.25}};

static double true_loss(const double *m) {
    return exp(0.5) + exp(-0.3 - 2.0 * m[0] + 1.0 * m[1] + 0.4 * m[2]);
}

static char *mixtures_text(const char *options) {
    char *rows = cps_format("%s", ""), *losses = cps_format("%s", "");
    for (int i = 0; i < 8; i++) {
        char *row = cps_format("%s%s[%.17g,%.17g,%.17g]", rows, i > 0 ? "," : "", mixtures[i][0],
                               mixtures[i][1], mixtures[i][2]);
        char *loss = cps_format("%s%s%.17g", losses, i > 0 ? "," : "", true_loss(mixtures[i]));
        free(rows);
        free(losses);
        rows = row;
        losses = loss;
    }
    char *text = cps_format("[[%s],[%s],%s]", rows, losses, options);
    free(rows);
    free(losses);
    return text;
}

static void check_mixture_fit(const cps_json *fit) {
    static const double unseen[][3] = {{1.0, 0.0, 0.0}, {0.25, 0.75, 0.0}, {0.3, 0.3, 0.4}};
    const cps_json *fits[] = {fit};
    for (size_t i = 0; i < sizeof unseen / sizeof unseen[0]; i++) {
        char *text = cps_format("[%%s,[%g,%g,%g]]", unseen[i][0], unseen[i][1], unseen[i][2]);
        cps_json *loss = call("predict_mixture", text, fits);
        assert_near(cps_json_number(cps_json_at(loss, 0)), true_loss(unseen[i]), 1e-6);
        cps_json_destroy(loss);
        free(text);
    }
}

static void test_mixtures(void **unused) {
    (void)unused;
    char *text = mixtures_text("{}");
    cps_json *fit = call("fit_mixtures", text, NULL);
    check_mixture_fit(fit);
    assert_near(number(fit, "t.0") + number(fit, "t.1") + number(fit, "t.2"), 0.0, 1e-12);
    assert_near(number(fit, "log_c"), 0.5, 1e-6);
    assert_near(number(fit, "t.1") - number(fit, "t.0"), 3.0, 1e-5);
    cps_json_destroy(fit);
    free(text);
}

/* The published grid of starts, thinned, leads to the same law. */
static void test_published_starts(void **unused) {
    (void)unused;
    cps_json *starts = call("published_starts", "[3]", NULL);
    assert_int_equal(cps_json_count(cps_json_at(starts, 0)), 6000);
    for (int64_t i = 0; i < 6000; i += 97) {
        const cps_json *t = cps_json_get(cps_json_at(cps_json_at(starts, 0), i), "t");
        const double drawn = cps_json_number(cps_json_at(t, i % 3));
        assert_true(drawn >= 0.0 && drawn < 0.1);
    }
    cps_json_destroy(starts);
    cps_json *few = call("published_starts",
                         "[3, {\"log_c\": [-2, 1.5, 3], \"log_k\": [-10, 1, 4], \"draws\": 2, "
                         "\"own\": 2, \"seed\": 5}]",
                         NULL);
    assert_int_equal(cps_json_count(cps_json_at(few, 0)), 24);
    const cps_json *first = cps_json_at(cps_json_at(few, 0), 0);
    assert_near(cps_json_get_number(first, "log_c", 0), -2.0, 0.0);
    assert_near(cps_json_get_number(first, "log_k", 0), -10.0, 0.0);
    const double own = cps_json_number(cps_json_path(first, "t.1"));
    assert_true(own <= 0.0 && own > -1.0);
    char *list = cps_json_print(cps_json_at(few, 0), false, false);
    char *options = cps_format("{\"starts\": %s}", list), *text = mixtures_text(options);
    cps_json *fit = call("fit_mixtures", text, NULL);
    check_mixture_fit(fit);
    cps_json_destroy(few);
    cps_json_destroy(fit);
    free(list);
    free(options);
    free(text);
}

/* ---- steps ---- */

static double step_loss(int curve, double steps) {
    return curve == 0 ? exp(0.6) + exp(0.55 * (8.2 - log(steps)))
                      : exp(0.2) + exp(0.55 * (9.0 - log(steps)));
}

/* Two curves of one alpha; the last three points of each are another law's, and held out. */
static char *steps_text(bool held, const char *options) {
    char *curves[2];
    for (int c = 0; c < 2; c++) {
        double steps[8], losses[8];
        for (int i = 0; i < 8; i++) {
            steps[i] = 1000.0 * (1 << i);
            losses[i] = step_loss(c, steps[i]) + (held && i >= 5 ? 0.02 : 0.0);
        }
        char *both = curve_text(steps, losses, 8, "0");
        char *middle = strstr(both, "],[");
        curves[c] = cps_format("{\"steps\":%.*s],\"losses\":%.*s}", (int)(middle - both) - 1,
                               both + 1, (int)strlen(middle + 2) - 3, middle + 2);
        free(both);
    }
    char *text = cps_format("[[%s,%s],%s]", curves[0], curves[1], options);
    free(curves[0]);
    free(curves[1]);
    return text;
}

static void check_steps(const char *text) {
    cps_json *fit = call("fit_steps", text, NULL);
    const cps_json *fits[] = {fit};
    assert_near(number(fit, "alpha"), 0.55, 1e-6);
    for (int c = 0; c < 2; c++) {
        char *ask = cps_format("[%%s, 1000000, %d]", c + 1);
        cps_json *loss = call("predict_steps", ask, fits);
        assert_near(cps_json_number(cps_json_at(loss, 0)), step_loss(c, 1e6), 1e-6);
        cps_json_destroy(loss);
        free(ask);
    }
    cps_json_destroy(fit);
}

static void test_steps(void **unused) {
    (void)unused;
    static const char two_starts[] =
        "{\"hold_out\": 3, \"starts\": [{\"alpha\": 0.9, \"log_k\": 15}, "
        "{\"alpha\": 0.65, \"log_k\": 12, \"log_c\": 0.3}]}";
    static const char *const options[] = {"{}", "{\"hold_out\": 3}", two_starts};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        char *text = steps_text(i > 0, options[i]);
        check_steps(text);
        free(text);
    }
}

/* ---- search ---- */

/* All mixtures of the page's grid, written out again: the first two domains have these shares, the
 * last takes what is left. */
static void test_search(void **unused) {
    (void)unused;
    static const double first[] = {1, 0.5, 0.25, 0.125, 0.0625, 0};
    static const double second[] = {0.4375, 0.21875, 0.109375, 0}; /* of 0.47 */
    double least = (double)INFINITY, best[3] = {0};
    int tried = 0;
    for (size_t i = 0; i < sizeof first / sizeof first[0]; i++) {
        for (size_t j = 0; j < sizeof second / sizeof second[0]; j++) {
            const double mixture[] = {first[i], second[j], 1 - first[i] - second[j]};
            if (mixture[2] < 0 || mixture[2] > 0.7) {
                continue;
            }
            const double value =
                0.25 * (1.0 + exp(0.1 - 2.0 * mixture[0])) +
                0.75 * (exp(0.2) + exp(0.5 * mixture[0] - 3.0 * mixture[1] - mixture[2]));
            tried++;
            if (value < least) {
                least = value;
                memcpy(best, mixture, sizeof best);
            }
        }
    }
    cps_json *found = call("search",
                           "[[{\"kind\":\"mixture\",\"log_c\":0,\"log_k\":0.1,\"t\":[-2,0,0]},"
                           "{\"kind\":\"mixture\",\"log_c\":0.2,\"log_k\":0,\"t\":[0.5,-3,-1]}],"
                           "{\"available\":[1,0.47,0.7],\"weights\":[0.25,0.75]}]",
                           NULL);
    assert_near(number(found, "value"), least, 1e-12);
    assert_near(number(found, "mixture.0"), best[0], 0.0);
    assert_near(number(found, "mixture.1"), best[1], 0.0);
    assert_near(number(found, "mixture.2"), best[2], 0.0);
    assert_near(number(found, "tried"), tried, 0.0);
    assert_true(best[0] > 0.0 && best[1] > 0.0);
    cps_json_destroy(found);
}

/* ---- in a job, and what the door says ---- */

static const char job_text[] =
    "local copse, law = require \"copse\", require \"copse.mixing_law\"\n"
    "local fit = law.fit({ 0.125, 0.25, 0.375, 0.5 }, { 2.92617, 2.88049, 2.85707, 2.83876 })\n"
    "local share = law.critical_share(fit, 2.87337).rounded\n"
    "return copse.job { name = \"mixed\", model = copse.model { preset = \"ViT-B-32\" },\n"
    "  data = { paired = copse.mixture { copse.shards { \"plants.h5\", weight = 1 - share },\n"
    "    copse.shards { \"web.h5\", weight = share } } },\n"
    "  stages = { copse.stage { objective = copse.objective.clip {}, steps = 1, global_batch = "
    "32,\n"
    "    optimizer = copse.adamw { lr = 1 } } } }\n";

static void test_in_a_job(void **unused) {
    (void)unused;
    cps_job *job = NULL;
    if (load_text(lua_folder, "mixed.lua", job_text, NULL, 0, &job) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    const cps_json *json = cps_job_json(job);
    assert_near(cps_json_number(cps_json_path(json, "data.paired.mixture.0.weight")),
                1.0 - 73.0 / 256.0, 0.0);
    assert_near(cps_json_number(cps_json_path(json, "data.paired.mixture.1.weight")), 73.0 / 256.0,
                0.0);
    cps_job_destroy(job);
}

static void assert_refused(const char *module, const char *function, const char *arguments,
                           int64_t instructions, const char *wanted) {
    cps_json *list = NULL, *results = NULL;
    assert_int_equal(cps_json_parse(arguments, strlen(arguments), "arguments", &list), CPS_OK);
    assert_int_equal(cps_library_call(lua_folder, module, function, list, instructions, &results),
                     CPS_ERR_USAGE);
    assert_null(results);
    if (strstr(cps_fail_message(), wanted) == NULL) {
        fail_msg("'%s' lacks '%s'", cps_fail_message(), wanted);
    }
    cps_json_destroy(list);
}

static void test_calls_that_fail(void **unused) {
    (void)unused;
    cps_json *list = cps_json_new_array(), *results = NULL;
    assert_refused("copse.mixing_law", "fit", "[[0.1], [2]]", 1,
                   "4 different shares at least, not 1");
    assert_refused("copse.mixing_law", "fits", "[]", 1, "no function 'fits' in 'copse.mixing_law'");
    assert_refused("copse.nothing", "fit", "[]", 1, "nothing.lua");
    assert_refused("copse.mixing_law", "published_starts", "[9, {\"draws\": 1000}]", 1,
                   "more than 1 million instructions");
    assert_int_equal(cps_library_call("/nowhere", "copse.mixing_law", "fit", list, 1, &results),
                     CPS_ERR_UNAVAILABLE);
    assert_non_null(strstr(cps_fail_message(), "/nowhere"));
    cps_json_destroy(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_curve),  cmocka_unit_test(test_share_is_kept_in_range),
        cmocka_unit_test(test_fit_is_a_minimum), cmocka_unit_test(test_law_is_found_again),
        cmocka_unit_test(test_optimum),          cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_published_starts), cmocka_unit_test(test_steps),
        cmocka_unit_test(test_search),           cmocka_unit_test(test_in_a_job),
        cmocka_unit_test(test_calls_that_fail),
    };
    lua_folder = test_lua_folder();
    char *folder = test_folder();
    const int failed = cmocka_run_group_tests_name("mixing law", tests, NULL, NULL);
    remove_test_folder(folder);
    free(lua_folder);
    return failed;
}
