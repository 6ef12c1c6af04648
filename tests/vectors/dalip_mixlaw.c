/* The mixing law's vectors (dalip.md 4.2 and 7). The numbers come out of the Lua library as jobs
 * use it. A member of `mixlaw` is what its inputs say: shares of general data and losses, losses
 * over steps, or losses over mixtures. */
#include "dalip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arrays.h"
#include "base/file.h"
#include "job/library.h"
#include "vectors.h"

enum { MILLION_INSTRUCTIONS = 200 };

/* Of the file's refined fits, which its optimiser left at 1e-6; of float32 optimisers; of the data
 * around the law behind them, which are noisy; of losses that were measured at shares that were not
 * fitted; of predictions of three domains from noisy points. */
static const double refined = 1e-4, in_float32 = 1e-3, noise = 3e-3, measured = 1e-3,
                    three_domains = 3e-3;

/* ---- the library ---- */

/* lua/ below COPSE_HOME, beside the runner's build folder (make links it), or here. */
static const char *lua_folder(void) {
    static char folder[4200];
    if (folder[0] != '\0') {
        return folder;
    }
    const char *home = getenv("COPSE_HOME");
    char program[4096] = "";
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = '\0';
    for (int i = 0; i < 3; i++) { /* build/float/tests/vectors_dalip */
        char *slash = strrchr(program, '/');
        *(slash != NULL ? slash : program) = '\0';
    }
    if (home != NULL) {
        snprintf(folder, sizeof folder, "%.4000s/lua", home);
    } else {
        snprintf(folder, sizeof folder, "%s/lua", program);
    }
    if (!cps_dir_exists(folder)) {
        snprintf(folder, sizeof folder, "lua");
    }
    return folder;
}

/* Calls the library, destroys the arguments. The results; NULL (the failure is on record) where it
 * raises. */
static cps_json *call_law(const char *function, cps_json *arguments) {
    cps_json *results = NULL;
    const cps_status status = cps_library_call(lua_folder(), "copse.mixing_law", function,
                                               arguments, MILLION_INSTRUCTIONS, &results);
    cps_json_destroy(arguments);
    return status == CPS_OK ? results : NULL;
}

static cps_json *add_numbers(cps_json *to, const char *key, const double *values, int64_t count) {
    cps_json *list = cps_json_add_array(to, key);
    for (int64_t i = 0; i < count; i++) {
        cps_json_add_number(list, NULL, values[i]);
    }
    return list;
}

/* A number of the first result: a key of it, or itself. NaN where the call failed. */
static double take(const cps_json *results, const char *key) {
    const cps_json *first = cps_json_at(results, 0);
    return key == NULL ? cps_json_number(first) : cps_json_number(cps_json_path(first, key));
}

/* function(fit, x) -> number; NaN where there is no fit. */
static double predict(const char *function, const cps_json *fit, const double *x, int64_t count) {
    if (fit == NULL) {
        return (double)NAN;
    }
    cps_json *arguments = cps_json_new_array();
    cps_json_add_copy(arguments, NULL, cps_json_at(fit, 0));
    if (count == 1) {
        cps_json_add_number(arguments, NULL, x[0]);
    } else {
        add_numbers(arguments, NULL, x, count);
    }
    cps_json *results = call_law(function, arguments);
    const double loss = take(results, NULL);
    cps_json_destroy(results);
    return loss;
}

/* ---- two domains ---- */

typedef struct share_case {
    cps_h5 *file;
    const char *group;
    cps_json *general, *target; /* results of fit; NULL: none, or it failed */
} share_case;

static bool has_one(const share_case *c, const char *name) {
    char *path = cps_format("%s/%s", c->group, name);
    const bool has = cps_h5_has(c->file, path);
    free(path);
    return has;
}

static vectors_matrix read_list(const share_case *c, const char *name) {
    vectors_matrix list = vectors_matrix_read(c->file, c->group, name);
    list.width *= list.rows;
    list.rows = 1;
    return list;
}

/* The domain's own shares. */
static void own_shares(vectors_matrix *general, bool target) {
    for (int64_t i = 0; target && i < general->width; i++) {
        general->values[i] = 1.0 - general->values[i];
    }
}

static cps_json *fit_curve(const share_case *c, const char *losses_name, bool target) {
    vectors_matrix shares = read_list(c, "general_ratio"), losses = read_list(c, losses_name);
    own_shares(&shares, target);
    cps_json *arguments = cps_json_new_array();
    add_numbers(arguments, NULL, shares.values, shares.width);
    add_numbers(arguments, NULL, losses.values, losses.width);
    cps_json *fit = call_law("fit", arguments);
    char *path = cps_format("%s/%s", c->group, losses_name);
    double worst = 0.0;
    for (int64_t i = 0; fit != NULL && i < losses.width; i++) {
        const double e =
            fabs(cps_json_number(cps_json_at(cps_json_get(cps_json_at(fit, 0), "residuals"), i))) /
            losses.values[i];
        worst = isnan(e) || e > worst ? e : worst;
    }
    if (fit != NULL) {
        vectors_judge(path, worst, noise);
    } else {
        vectors_broken(path, noise, "%s", cps_fail_message());
    }
    free(path);
    free(shares.values);
    free(losses.values);
    return fit;
}

/* fit_<domain>_c, _corr, _kb_refined, _kb_float32 */
static void expect_fit(const share_case *c, const cps_json *fit, const char *domain) {
    const double values[] = {take(fit, "c"), take(fit, "correlation")};
    const double kb[] = {take(fit, "k"), take(fit, "b")};
    const struct {
        const char *key;
        const double *got;
        int64_t count;
        double tolerance;
    } outputs[] = {{"c", &values[0], 1, 1e-6},
                   {"corr", &values[1], 1, 1e-6},
                   {"kb_refined", kb, 2, refined},
                   {"kb_float32", kb, 2, in_float32}};
    for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
        char *name = cps_format("fit_%s_%s", domain, outputs[i].key);
        vectors_expect_in(c->file, c->group, name, outputs[i].got, outputs[i].count,
                          outputs[i].tolerance);
        free(name);
    }
}

/* true_<domain>_ckb: the law that the losses were drawn around. */
static void expect_truth(const share_case *c, const char *domain, bool target) {
    char *name = cps_format("true_%s_ckb", domain), *path = cps_format("%s/%s", c->group, name);
    char *losses_name = cps_format("loss_%s", domain);
    if (has_one(c, name)) {
        vectors_matrix truth = read_list(c, name), shares = read_list(c, "general_ratio"),
                       losses = read_list(c, losses_name);
        own_shares(&shares, target);
        vectors_need_same(c->group, truth.width == 3 && shares.width == losses.width);
        cps_json *fits = cps_json_new_array(), *fit = cps_json_add_object(fits, NULL);
        cps_json_add_string(fit, "kind", "share");
        cps_json_add_number(fit, "c", truth.values[0]);
        cps_json_add_number(fit, "k", truth.values[1]);
        cps_json_add_number(fit, "b", truth.values[2]);
        for (int64_t i = 0; i < shares.width; i++) {
            shares.values[i] = predict("predict", fits, &shares.values[i], 1);
        }
        vectors_compare(path, shares.values, losses.values, losses.width, noise);
        cps_json_destroy(fits);
        free(truth.values);
        free(shares.values);
        free(losses.values);
    }
    free(name);
    free(path);
    free(losses_name);
}

static void expect_curve(const share_case *c, const cps_json *fit, const char *domain,
                         bool target) {
    char *name = cps_format("grid_%s", domain);
    if (has_one(c, name) && has_one(c, "grid")) {
        vectors_matrix grid = read_list(c, "grid");
        own_shares(&grid, target);
        for (int64_t i = 0; i < grid.width; i++) {
            grid.values[i] = predict("predict", fit, &grid.values[i], 1);
        }
        vectors_expect_in(c->file, c->group, name, grid.values, grid.width, refined);
        free(grid.values);
    }
    free(name);
}

static void expect_critical(const share_case *c) {
    if (!has_one(c, "general_loss_before")) {
        return;
    }
    cps_json *arguments = cps_json_new_array();
    cps_json_add_copy(arguments, NULL, cps_json_at(c->general, 0));
    cps_json_add_number(arguments, NULL, vectors_number(c->file, c->group, "general_loss_before"));
    cps_json *results = call_law("critical_share", arguments);
    const double share = take(results, "share"), rounded = take(results, "rounded");
    vectors_expect_in(c->file, c->group, "critical_general_ratio", &share, 1, refined);
    vectors_expect_in(c->file, c->group, "critical_general_ratio_float32", &share, 1, in_float32);
    vectors_expect_in(c->file, c->group, "heldout_ratio", &rounded, 1, 1e-12);
    cps_json_destroy(results);
}

static void expect_heldout(const share_case *c) {
    if (has_one(c, "heldout_ratio") && has_one(c, "heldout_loss_general")) {
        const double share = vectors_number(c->file, c->group, "heldout_ratio");
        const double loss = predict("predict", c->general, &share, 1);
        vectors_expect_in(c->file, c->group, "heldout_loss_general", &loss, 1, measured);
    }
}

/* optimum_wg_<weight> and optimum_value_wg_<weight>; the target's weight is the rest. */
static void expect_optimum(const share_case *c, const char *name, const char *weight,
                           const char *key) {
    const double general = strtod(weight, NULL);
    cps_json *arguments = cps_json_new_array();
    cps_json_add_copy(arguments, NULL, cps_json_at(c->general, 0));
    cps_json_add_copy(arguments, NULL, cps_json_at(c->target, 0));
    cps_json *weights = cps_json_add_object(arguments, NULL);
    cps_json_add_number(weights, "general", general);
    cps_json_add_number(weights, "target", 1.0 - general);
    cps_json *results = call_law("optimum", arguments);
    const double got = take(results, key);
    vectors_expect_in(c->file, c->group, name, &got, 1, refined);
    cps_json_destroy(results);
}

static void expect_optima(const share_case *c) {
    static const char share[] = "optimum_wg_", value[] = "optimum_value_wg_";
    char **names = NULL;
    int64_t count = 0;
    vectors_need(cps_h5_list(c->file, c->group, &names, &count));
    for (int64_t i = 0; i < count; i++) {
        if (strncmp(names[i], share, sizeof share - 1) == 0) {
            expect_optimum(c, names[i], names[i] + sizeof share - 1, "share");
        } else if (strncmp(names[i], value, sizeof value - 1) == 0) {
            expect_optimum(c, names[i], names[i] + sizeof value - 1, "value");
        }
    }
    cps_strings_destroy(names, count);
}

static void check_shares(cps_h5 *file, const char *group) {
    share_case c = {.file = file, .group = group};
    c.general = fit_curve(&c, "loss_general", false);
    if (c.general != NULL) {
        expect_fit(&c, c.general, "general");
        expect_truth(&c, "general", false);
        expect_curve(&c, c.general, "general", false);
        expect_critical(&c);
        expect_heldout(&c);
    }
    c.target = has_one(&c, "loss_target") ? fit_curve(&c, "loss_target", true) : NULL;
    if (c.target != NULL) {
        expect_fit(&c, c.target, "target");
        expect_truth(&c, "target", true);
        expect_curve(&c, c.target, "target", true);
    }
    if (c.general != NULL && c.target != NULL) {
        expect_optima(&c);
    }
    cps_json_destroy(c.general);
    cps_json_destroy(c.target);
}

/* ---- steps ---- */

static void check_steps(cps_h5 *file, const char *group) {
    const share_case c = {.file = file, .group = group};
    vectors_matrix steps = read_list(&c, "steps"), losses = read_list(&c, "loss");
    cps_json *arguments = cps_json_new_array();
    cps_json *curve = cps_json_add_object(cps_json_add_array(arguments, NULL), NULL);
    add_numbers(curve, "steps", steps.values, steps.width);
    add_numbers(curve, "losses", losses.values, losses.width);
    cps_json *fit = call_law("fit_steps", arguments);
    const double parameters[] = {take(fit, "curves.0.log_c"), take(fit, "curves.0.log_k"),
                                 take(fit, "alpha")};
    vectors_expect_in(file, group, "log_c_log_k_alpha", parameters, 3, 1e-6);
    if (has_one(&c, "predict_at")) {
        vectors_matrix at = read_list(&c, "predict_at");
        for (int64_t i = 0; i < at.width; i++) {
            at.values[i] = predict("predict_steps", fit, &at.values[i], 1);
        }
        vectors_expect_in(file, group, "predicted", at.values, at.width, 1e-6);
        free(at.values);
    }
    cps_json_destroy(fit);
    free(steps.values);
    free(losses.values);
}

/* ---- mixtures ---- */

/* The losses of all test mixtures; free() them. */
static double *predict_mixtures(const cps_json *fit, const vectors_matrix *mixtures) {
    double *losses = vectors_doubles(mixtures->rows);
    for (int64_t i = 0; i < mixtures->rows; i++) {
        losses[i] = predict("predict_mixture", fit, mixtures->values + i * mixtures->width,
                            mixtures->width);
    }
    return losses;
}

/* The law that float32 found: its parameters, predicted with by us, give its predictions. */
static void expect_float32(const share_case *c, const vectors_matrix *tests) {
    vectors_matrix parameters = read_list(c, "fit_float32");
    vectors_need_same(c->group, parameters.width == tests->width + 2);
    cps_json *fits = cps_json_new_array(), *fit = cps_json_add_object(fits, NULL);
    cps_json_add_string(fit, "kind", "mixture");
    cps_json_add_number(fit, "log_c", parameters.values[0]);
    cps_json_add_number(fit, "log_k", parameters.values[1]);
    add_numbers(fit, "t", parameters.values + 2, tests->width);
    double *losses = predict_mixtures(fits, tests), *want = NULL;
    char *path = cps_format("%s/fit_float32", c->group),
         *predicted = cps_format("%s/test_predicted", c->group);
    want = vectors_wanted(c->file, predicted, tests->rows, 1e-6);
    if (want != NULL) {
        vectors_compare(path, losses, want, tests->rows, 1e-6);
    }
    cps_json_destroy(fits);
    free(losses);
    free(want);
    free(path);
    free(predicted);
    free(parameters.values);
}

static void check_mixtures(cps_h5 *file, const char *group) {
    const share_case c = {.file = file, .group = group};
    vectors_matrix mixtures = vectors_matrix_read(file, group, "train_ratios"),
                   losses = read_list(&c, "train_loss"),
                   tests = vectors_matrix_read(file, group, "test_ratios");
    vectors_need_same(group, mixtures.rows == losses.width && mixtures.width == tests.width);
    cps_json *arguments = cps_json_new_array(), *list = cps_json_add_array(arguments, NULL);
    for (int64_t i = 0; i < mixtures.rows; i++) {
        add_numbers(list, NULL, mixtures.values + i * mixtures.width, mixtures.width);
    }
    add_numbers(arguments, NULL, losses.values, losses.width);
    cps_json *fit = call_law("fit_mixtures", arguments);
    double *predicted = predict_mixtures(fit, &tests);
    vectors_expect_in(file, group, "test_loss_noise_free", predicted, tests.rows, three_domains);
    vectors_expect_in(file, group, "test_predicted", predicted, tests.rows, three_domains);
    if (has_one(&c, "fit_float32") && has_one(&c, "test_predicted")) {
        expect_float32(&c, &tests);
    }
    cps_json_destroy(fit);
    free(predicted);
    free(mixtures.values);
    free(losses.values);
    free(tests.values);
}

static void check_group(cps_h5 *file, const char *group) {
    static const char *const shares[] = {"general_ratio", "loss_general", NULL};
    static const char *const steps[] = {"steps", "loss", NULL};
    static const char *const mixtures[] = {"train_ratios", "train_loss", "test_ratios", NULL};
    if (vectors_has(file, group, shares)) {
        check_shares(file, group);
    } else if (vectors_has(file, group, steps)) {
        check_steps(file, group);
    } else if (vectors_has(file, group, mixtures)) {
        check_mixtures(file, group);
    }
}

void dalip_mixlaw(cps_h5 *file) {
    vectors_each(file, "mixlaw", check_group);
}
