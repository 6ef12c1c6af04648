#include "eval/zeroshot.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "comm/agree.h"
#include "eval/score.h"

enum { BLOCK_TEXTS = 16384 }; /* texts encoded and held at once */

static const char *const bare_name[] = {"{}"};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the texts of the classes");
}

static cps_status check_templates(const char *const *templates, int64_t count) {
    for (int64_t t = 0; t < count; t++) {
        const char *place = strstr(templates[t], "{}");
        if (place == NULL || strstr(place + 2, "{}") != NULL) {
            return cps_fail(CPS_ERR_USAGE,
                            "template %lld is '%s': it must hold '{}' once, where the name of the "
                            "class goes",
                            (long long)t + 1, templates[t]);
        }
    }
    return CPS_OK;
}

static char *fill_template(const char *template, const char *name) {
    const char *place = strstr(template, "{}");
    return cps_format("%.*s%s%s", cps_to_int(place - template), template, name, place + 2);
}

/* Mean over the `templates` rows of each class, in double, into rows of `vectors`. */
static void average(const cps_features *texts, int64_t templates, int64_t classes,
                    cps_real *vectors) {
    const int64_t width = texts->width;
    for (int64_t c = 0; c < classes; c++) {
        for (int64_t i = 0; i < width; i++) {
            double sum = 0.0;
            for (int64_t t = 0; t < templates; t++) {
                sum += (double)texts->values[(c * templates + t) * width + i];
            }
            vectors[c * width + i] = (cps_real)(sum / (double)templates);
        }
    }
}

/* Collective. Vectors of `classes` classes, not yet normalised. */
static cps_status encode_block(cps_comm *comm, const cps_encoder *encoder, const char *const *names,
                               int64_t classes, const char *const *templates,
                               int64_t template_count, bool normalise, cps_real *vectors,
                               int64_t *non_finite) {
    const int64_t count = classes * template_count;
    char **texts = calloc((size_t)count, sizeof *texts);
    cps_status status = texts == NULL ? fail_memory() : CPS_OK;
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        texts[i] = fill_template(templates[i % template_count], names[i / template_count]);
    }
    status = cps_agree(comm, "class texts", status);
    if (status == CPS_OK) {
        cps_features features = {0};
        status = cps_features_of_texts(comm, encoder, (const char *const *)texts, count, normalise,
                                       &features);
        if (status == CPS_OK) {
            average(&features, template_count, classes, vectors);
            *non_finite += features.non_finite;
            cps_features_free(&features);
        }
    }
    cps_strings_destroy(texts, count);
    return status;
}

static cps_status alloc_vectors(const cps_encoder *encoder, int64_t count, cps_features *out) {
    cps_features vectors = {.rows = count, .component_count = encoder->component_count};
    memcpy(vectors.widths, encoder->widths, sizeof vectors.widths);
    for (int32_t c = 0; c < encoder->component_count; c++) {
        vectors.width += encoder->widths[c];
    }
    size_t elements;
    if (!cps_mul_size((size_t)count, (size_t)vectors.width, &elements)) {
        return fail_memory();
    }
    vectors.values = calloc(elements + 1, sizeof *vectors.values);
    vectors.records = calloc((size_t)count + 1, sizeof *vectors.records);
    if (vectors.values == NULL || vectors.records == NULL) {
        cps_features_free(&vectors);
        return fail_memory();
    }
    for (int64_t i = 0; i < count; i++) {
        vectors.records[i] = i;
    }
    *out = vectors;
    return CPS_OK;
}

/* A class whose vector is zero would score 0 with every image. (Texts that were not finite are
 * zeros too; they are counted instead.) */
static cps_status check_vectors(const cps_features *vectors, const char *const *names) {
    for (int64_t c = 0; c < vectors->rows && vectors->non_finite == 0; c++) {
        const cps_real *row = vectors->values + c * vectors->width;
        int64_t i = 0;
        while (i < vectors->width && row[i] == (cps_real)0) {
            i++;
        }
        if (i == vectors->width) {
            return cps_fail(
                CPS_ERR_DATA,
                "the vector of class %lld, '%s', is zero: its texts have no feature, or "
                "features that cancel out; look at the weights of the text side and at "
                "the templates",
                (long long)c, names[c]);
        }
    }
    return CPS_OK;
}

cps_status cps_class_vectors(cps_comm *comm, const cps_encoder *encoder, const char *const *names,
                             int64_t count, const cps_lines *templates, cps_averaging averaging,
                             cps_features *vectors_out) {
    const bool none = templates == NULL || templates->count == 0;
    const char *const *lines = none ? bare_name : templates->lines;
    const int64_t template_count = none ? 1 : templates->count;
    const int64_t block = cps_max_i64(1, BLOCK_TEXTS / template_count);
    cps_features vectors = {0};
    cps_status status = check_templates(lines, template_count);
    if (status == CPS_OK) {
        status = alloc_vectors(encoder, count, &vectors);
    }
    status = cps_agree(comm, "class vectors", status);
    for (int64_t first = 0; first < count && status == CPS_OK; first += block) {
        status = encode_block(comm, encoder, names + first, cps_min_i64(block, count - first),
                              lines, template_count, averaging == CPS_NORMALISE_FIRST,
                              vectors.values + first * vectors.width, &vectors.non_finite);
    }
    if (status != CPS_OK) {
        cps_features_free(&vectors);
        return status;
    }
    status = cps_agree(comm, "class vectors", check_vectors(&vectors, names));
    if (status != CPS_OK) {
        cps_features_free(&vectors);
        return status;
    }
    cps_features_normalise(&vectors);
    *vectors_out = vectors;
    return CPS_OK;
}

size_t cps_class_vectors_bytes(const cps_encoder *encoder, int64_t count, int64_t template_count) {
    enum { TEXT_BYTES = 256 }; /* a template filled in, generously */
    const int64_t templates = cps_max_i64(1, template_count);
    const int64_t block = cps_min_i64(count, cps_max_i64(1, BLOCK_TEXTS / templates));
    return cps_features_text_bytes(encoder, block * templates) +
           (size_t)(block * templates) * TEXT_BYTES + cps_features_text_bytes(encoder, count);
}

cps_status cps_zero_shot(cps_comm *comm, const cps_features *images, const cps_features *classes,
                         const double *weights, int64_t top, cps_predictions *predictions_out) {
    cps_predictions predictions = {0};
    cps_top_lists lists = {0};
    int64_t first, last;
    top = cps_min_i64(top, classes->rows);
    cps_score_range(images->rows, cps_comm_size(comm), cps_comm_rank(comm), &first, &last);
    cps_status status = cps_predictions_alloc(images->rows, top, &predictions);
    if (status == CPS_OK) {
        status = cps_score_top(images, classes, weights, first, last, top, NULL, NULL, &lists);
    }
    for (int64_t i = 0; status == CPS_OK && i < lists.rows * top; i++) {
        predictions.index[first * top + i] = (int32_t)lists.index[i];
        predictions.score[first * top + i] = lists.score[i];
    }
    cps_top_lists_free(&lists);
    status = cps_agree(comm, "zero-shot", status);
    if (status != CPS_OK) {
        cps_predictions_free(&predictions);
        return status;
    }
    const size_t places = (size_t)top;
    cps_score_gather(comm, "zero-shot", predictions.index, images->rows,
                     places * sizeof *predictions.index);
    cps_score_gather(comm, "zero-shot", predictions.score, images->rows,
                     places * sizeof *predictions.score);
    *predictions_out = predictions;
    return CPS_OK;
}
