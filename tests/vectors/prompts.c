#include "prompts.h"

#include <stdio.h>
#include <stdlib.h>

#include "arrays.h"
#include "base/file.h"
#include "base/numeric.h"
#include "ranks.h"

/* The text "c t" is template t of class c. */
typedef struct prompts {
    const double *values; /* [classes, templates, width] */
    int64_t templates, width;
} prompts;

static cps_status encode_texts(void *context, const char *const *texts,
                               cps_real *const *components_out) {
    const prompts *from = context;
    for (int64_t i = 0; i < 64; i++) {
        long long class_index = 0, template = 0;
        if (sscanf(texts[i], "%lld %lld", &class_index, &template) != 2) {
            continue; /* padding */
        }
        const double *row = from->values + (class_index * from->templates + template) * from->width;
        for (int64_t j = 0; j < from->width; j++) {
            components_out[0][i * from->width + j] = (cps_real)row[j];
        }
    }
    return CPS_OK;
}

static char **numbered(const char *format, int64_t count) {
    char **texts = calloc((size_t)count + 1, sizeof *texts);
    if (texts == NULL) {
        vectors_unusable("out of memory");
    }
    for (int64_t i = 0; i < count; i++) {
        texts[i] = cps_format("%s%lld", format, (long long)i);
    }
    return texts;
}

cps_features vectors_class_vectors(cps_h5 *file, const char *name, int64_t templates,
                                   cps_averaging averaging) {
    cps_h5_info info;
    int64_t count = 0;
    vectors_need(cps_h5_inspect(file, name, &info));
    double *values = vectors_read(file, name, &count);
    if (values == NULL || info.rank != 3) {
        vectors_unusable("'%s' is no [classes, templates, width]", name);
    }
    prompts from = {.values = values, .templates = info.shape[1], .width = info.shape[2]};
    const cps_encoder encoder = {.context = &from,
                                 .component_count = 1,
                                 .widths = {from.width},
                                 .grain = 64,
                                 .texts = encode_texts};
    const int64_t used = templates > 0 ? cps_min_i64(templates, info.shape[1]) : info.shape[1];
    char **names = numbered("", info.shape[0]), **lines = numbered("{} ", used);
    const cps_lines given = {.count = used, .lines = (const char *const *)lines};
    cps_features classes = {0};
    vectors_need(cps_class_vectors(vectors_comm(), &encoder, (const char *const *)names,
                                   info.shape[0], &given, averaging, &classes));
    cps_strings_destroy(names, info.shape[0]);
    cps_strings_destroy(lines, used);
    free(values);
    return classes;
}
