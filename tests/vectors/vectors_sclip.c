/* Golden vectors of S-CLIP's published code: s-clip.md, section 8. Losses and gradients come out of
 * the plugins (objective.h). */
#include "vectors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "objective.h"
#include "ranks.h"
#include "sclip.h"

/* Inputs of a loss case. */
typedef struct loss_case {
    cps_h5 *file;
    char *group; /* "loss/tiny" */
    sclip_matrix image, text, query, keyword, mask;
    double scale, log_scale;
    double *d_image, *d_text, *d_query, *d_keyword, d_log_scale;
} loss_case;

static double *zeros(const sclip_matrix *like) {
    double *values = calloc((size_t)(like->rows * like->width), sizeof *values);
    if (values == NULL) {
        vectors_unusable("out of memory for %lld values", (long long)(like->rows * like->width));
    }
    return values;
}

static loss_case read_case(cps_h5 *file, const char *group) {
    loss_case c = {.file = file, .group = cps_format("%s", group)};
    char *in = cps_format("%s/in", c.group);
    c.image = sclip_read_matrix(file, in, "image");
    c.text = sclip_read_matrix(file, in, "text");
    c.query = sclip_read_matrix(file, in, "query");
    c.keyword = sclip_read_matrix(file, in, "keyword");
    c.mask = sclip_read_matrix(file, in, "keyword_mask");
    c.scale = sclip_read_number(file, in, "logit_scale");
    c.log_scale = sclip_read_number(file, in, "log_scale");
    const int64_t width = c.image.width;
    if (c.text.width != width || c.query.width != width || c.keyword.width != width ||
        c.text.rows != c.image.rows || c.mask.rows != c.image.rows ||
        c.mask.width != c.keyword.rows) {
        vectors_unusable("the inputs of '%s' do not belong together", c.group);
    }
    free(in);
    c.d_image = zeros(&c.image);
    c.d_text = zeros(&c.text);
    c.d_query = zeros(&c.query);
    c.d_keyword = zeros(&c.keyword);
    return c;
}

static void end_case(loss_case *c) {
    free(c->image.values);
    free(c->text.values);
    free(c->query.values);
    free(c->keyword.values);
    free(c->mask.values);
    free(c->d_image);
    free(c->d_text);
    free(c->d_query);
    free(c->d_keyword);
    free(c->group);
}

/* ---- outputs ---- */

static void expect_matrix(cps_h5 *file, const char *group, const char *name, const double *got,
                          const sclip_matrix *like) {
    sclip_expect(file, group, name, got, like->rows * like->width);
}

/* All that the file has of gradients in `group`. d/ds = (d/dt)/s, as s = exp t. */
static void expect_gradients(const loss_case *c, const char *group) {
    const double d_scale = c->d_log_scale / c->scale;
    expect_matrix(c->file, group, "d_image", c->d_image, &c->image);
    expect_matrix(c->file, group, "d_text", c->d_text, &c->text);
    expect_matrix(c->file, group, "d_query", c->d_query, &c->query);
    expect_matrix(c->file, group, "d_keyword", c->d_keyword, &c->keyword);
    sclip_expect(c->file, group, "d_log_scale", &c->d_log_scale, 1);
    sclip_expect(c->file, group, "d_logit_scale", &d_scale, 1);
}

/* ---- losses ---- */

static cps_status run_objective(loss_case *c, const char *objective, const char *options,
                                objective_result *result) {
    objective_rows slots[] = {
        {"image", c->image.rows, c->image.width, c->image.values, c->d_image},
        {"text", c->text.rows, c->text.width, c->text.values, c->d_text},
        {"query", c->query.rows, c->query.width, c->query.values, c->d_query},
        {"keyword", c->keyword.rows, c->keyword.width, c->keyword.values, c->d_keyword},
        {"keyword_mask", c->mask.rows, c->mask.width, c->mask.values, NULL},
    };
    objective_parameter scale = {"logit_scale", 1, &c->log_scale, &c->d_log_scale};
    const objective_loss wanted = {.name = objective,
                                   .options = options,
                                   .embed_dim = c->image.width,
                                   .slots = slots,
                                   .slot_count = sizeof slots / sizeof slots[0],
                                   .parameters = &scale,
                                   .parameter_count = 1};
    return objective_run_loss(&wanted, result);
}

static void check_base(loss_case *c) {
    char *group = cps_format("%s/base", c->group);
    if (cps_h5_has(c->file, group)) {
        objective_result result;
        if (run_objective(c, "clip", "{}", &result) != CPS_OK) {
            vectors_broken(group, sclip_tolerance(), "%s", cps_fail_message());
        } else {
            sclip_expect(c->file, group, "loss", &result.loss, 1);
            expect_gradients(c, group);
        }
    }
    free(group);
}

/* The two inputs that say the same. */
static void check_scales(const loss_case *c) {
    char *in = cps_format("%s/in", c->group);
    const double scale = exp(c->log_scale);
    sclip_expect(c->file, in, "logit_scale", &scale, 1);
    free(in);
}

static void check_loss(cps_h5 *file, const char *group) {
    loss_case c = read_case(file, group);
    check_scales(&c);
    check_base(&c);
    end_case(&c);
}

int main(int argc, char **argv) {
    cps_h5 *file = vectors_open(argc, argv, 1, 1, "FILE");
    vectors_set_floor(1.0);
    sclip_each(file, "loss", check_loss);
    sclip_check_evaluation(file);
    sclip_check_splits(file);
    sclip_check_schedules(file);
    vectors_skip_unknown(file, "/");
    if (cps_h5_close(file) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    return vectors_finish();
}
