/* Grains land at their place in one array of all rows, ranks' runs are gathered in place, then rows
 * that gave nothing are closed up: all ranks do the same to the same bytes. */
#include "eval/features.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "comm/agree.h"
#include "comm/canonical.h"
#include "data/batch.h"

/* What became of a row. */
enum { ROW_NONE = 0, ROW_VALID = 1, ROW_NON_FINITE = 2 };

/* Features under way: rows of whole grains, the last one padded. */
typedef struct gathering {
    cps_comm *comm;
    const cps_encoder *encoder;
    int64_t rows, grains; /* wanted; grains * encoder->grain rows are held */
    int64_t first, last;  /* this rank's grains */
    int64_t width;
    cps_real *values;                         /* [grains * grain, width] */
    uint8_t *what;                            /* [grains * grain] */
    cps_real *components[CPS_MAX_COMPONENTS]; /* [grain, widths[c]]: one grain as encoded */
    cps_left_out *left_out;                   /* this rank's; after the gather, everybody's */
    int64_t left_out_count, left_out_capacity;
} gathering;

static cps_status fail_memory(int64_t rows, int64_t width) {
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "out of memory for the features of %lld samples or texts (%lld numbers each): "
                    "evaluate fewer of them, or give each rank more memory",
                    (long long)rows, (long long)width);
}

static void gathering_free(gathering *g) {
    free(g->values);
    free(g->what);
    free(g->left_out);
    for (int32_t c = 0; c < CPS_MAX_COMPONENTS; c++) {
        free(g->components[c]);
    }
}

/* Memory and this rank's run of grains. */
static cps_status gathering_begin(cps_comm *comm, const cps_encoder *encoder, int64_t rows,
                                  gathering *g) {
    CPS_BUG_IF(encoder->grain < 1 || encoder->component_count < 1 ||
               encoder->component_count > CPS_MAX_COMPONENTS);
    *g = (gathering){.comm = comm, .encoder = encoder, .rows = rows};
    g->grains = cps_ceil_div(rows, encoder->grain);
    g->first = cps_part_first(g->grains, cps_comm_size(comm), cps_comm_rank(comm));
    g->last = cps_part_first(g->grains, cps_comm_size(comm), cps_comm_rank(comm) + 1);
    bool enough = true;
    for (int32_t c = 0; c < encoder->component_count; c++) {
        g->width += encoder->widths[c];
        g->components[c] = cps_allocate_zero(encoder->grain, encoder->widths[c], sizeof(cps_real));
        enough = enough && g->components[c] != NULL;
    }
    g->values = cps_allocate_zero(g->grains * encoder->grain, g->width, sizeof(cps_real));
    g->what = cps_allocate_zero(g->grains, encoder->grain, 1);
    return enough && g->values != NULL && g->what != NULL ? CPS_OK : fail_memory(rows, g->width);
}

/* ---- one row ---- */

/* Unit components; false and zeros where something is not finite. */
static bool normalise_row(cps_real *row, int32_t component_count, const int64_t *widths) {
    int64_t width = 0;
    for (int32_t c = 0; c < component_count; c++) {
        width += widths[c];
    }
    bool finite = cps_all_finite(row, width);
    cps_real *at = row;
    for (int32_t c = 0; c < component_count && finite; at += widths[c], c++) {
        const double norm = sqrt(cps_sum_squares(at, widths[c]));
        finite = isfinite(norm) != 0;
        for (int64_t i = 0; i < widths[c] && norm > 0.0; i++) {
            at[i] = (cps_real)((double)at[i] / norm);
        }
    }
    if (!finite) {
        memset(row, 0, (size_t)width * sizeof *row);
    }
    return finite;
}

void cps_features_normalise(cps_features *features) {
    for (int64_t i = 0; i < features->rows; i++) {
        if (!normalise_row(features->values + i * features->width, features->component_count,
                           features->widths)) {
            features->non_finite++;
        }
    }
}

/* Takes the rows of the encoded grain that are there: valid[grain]. */
static void take_grain(gathering *g, int64_t grain, const uint8_t *valid, bool normalise) {
    const cps_encoder *encoder = g->encoder;
    for (int64_t i = 0; i < encoder->grain; i++) {
        if (!valid[i]) {
            continue;
        }
        const int64_t row = grain * encoder->grain + i;
        cps_real *const values = g->values + row * g->width;
        cps_real *at = values;
        for (int32_t c = 0; c < encoder->component_count; at += encoder->widths[c], c++) {
            memcpy(at, g->components[c] + i * encoder->widths[c],
                   (size_t)encoder->widths[c] * sizeof *at);
        }
        const bool finite =
            !normalise || normalise_row(values, encoder->component_count, encoder->widths);
        g->what[row] = finite ? ROW_VALID : ROW_NON_FINITE;
    }
}

/* ---- the gather ---- */

static void gather_grains(gathering *g, const char *place, void *all, size_t row_bytes,
                          int64_t *bytes) {
    const int32_t size = cps_comm_size(g->comm);
    for (int32_t r = 0; r < size; r++) {
        const int64_t grains =
            cps_part_first(g->grains, size, r + 1) - cps_part_first(g->grains, size, r);
        bytes[r] = grains * g->encoder->grain * (int64_t)row_bytes;
    }
    cps_comm_allgatherv_inplace(g->comm, place, all, bytes);
}

/* Everybody's left-out records, in rank order: ascending, since runs of grains are. */
static cps_status gather_left_out(gathering *g, int64_t *bytes) {
    static const char place[] = "left-out records";
    const int32_t size = cps_comm_size(g->comm), rank = cps_comm_rank(g->comm);
    int64_t *counts = calloc((size_t)size, sizeof *counts);
    CPS_BUG_IF(counts == NULL);
    for (int32_t r = 0; r < size; r++) {
        bytes[r] = sizeof *counts;
    }
    counts[rank] = g->left_out_count;
    cps_comm_allgatherv_inplace(g->comm, place, counts, bytes);
    int64_t total = 0;
    for (int32_t r = 0; r < size; r++) {
        bytes[r] = counts[r] * (int64_t)sizeof(cps_left_out);
        total += counts[r];
    }
    free(counts);
    cps_left_out *all = cps_allocate_zero(total, 1, sizeof *all);
    CPS_TRY(cps_agree(g->comm, place, all == NULL ? fail_memory(total, 16) : CPS_OK));
    cps_comm_allgatherv(g->comm, place, g->left_out, all, bytes);
    free(g->left_out);
    g->left_out = all;
    g->left_out_count = total;
    return CPS_OK;
}

/* Closes up the rows that are there and hands everything over. */
static cps_status close_up(gathering *g, cps_features *features_out) {
    int64_t *records = cps_allocate_zero(g->rows, 1, sizeof *records);
    if (records == NULL) {
        return fail_memory(g->rows, g->width);
    }
    cps_features features = {.width = g->width,
                             .component_count = g->encoder->component_count,
                             .values = g->values,
                             .records = records,
                             .left_out = g->left_out,
                             .left_out_count = g->left_out_count};
    memcpy(features.widths, g->encoder->widths, sizeof features.widths);
    for (int64_t row = 0; row < g->rows; row++) {
        if (g->what[row] == ROW_NONE) {
            continue;
        }
        if (features.rows != row) {
            memcpy(g->values + features.rows * g->width, g->values + row * g->width,
                   (size_t)g->width * sizeof *g->values);
        }
        features.non_finite += g->what[row] == ROW_NON_FINITE;
        records[features.rows++] = row;
    }
    g->values = NULL;
    g->left_out = NULL;
    *features_out = features;
    return CPS_OK;
}

/* From the ranks' grains, encoded with `status` here, to everybody's features. */
static cps_status gathering_finish(gathering *g, const char *place, cps_status status,
                                   cps_features *features_out) {
    cps_status agreed = cps_agree(g->comm, place, status);
    int64_t *bytes = NULL;
    if (agreed == CPS_OK) {
        bytes = calloc((size_t)cps_comm_size(g->comm), sizeof *bytes);
        CPS_BUG_IF(bytes == NULL);
        gather_grains(g, place, g->values, (size_t)g->width * sizeof *g->values, bytes);
        gather_grains(g, place, g->what, 1, bytes);
        agreed = gather_left_out(g, bytes);
    }
    if (agreed == CPS_OK) {
        cps_features features = {0};
        agreed = cps_agree(g->comm, place, close_up(g, &features));
        if (agreed == CPS_OK) {
            *features_out = features;
        } else {
            cps_features_free(&features);
        }
    }
    free(bytes);
    gathering_free(g);
    return agreed;
}

void cps_features_free(cps_features *features) {
    free(features->values);
    free(features->records);
    free(features->left_out);
    *features = (cps_features){0};
}

/* ---- images ---- */

static cps_status note_left_out(gathering *g, const cps_batch *batch) {
    for (int64_t i = 0; i < batch->bad_count; i++) {
        if (g->left_out_count == g->left_out_capacity) {
            g->left_out_capacity = g->left_out_capacity * 2 + 16;
            cps_left_out *longer =
                realloc(g->left_out, (size_t)g->left_out_capacity * sizeof *longer);
            if (longer == NULL) {
                return fail_memory(g->left_out_capacity, 16);
            }
            g->left_out = longer;
        }
        cps_left_out *entry = &g->left_out[g->left_out_count++];
        *entry = (cps_left_out){.record = batch->grain * g->encoder->grain + batch->bad[i].row};
        memcpy(entry->reason, batch->bad[i].reason,
               strnlen(batch->bad[i].reason, sizeof entry->reason - 1));
    }
    return CPS_OK;
}

static cps_status encode_image_grain(gathering *g, cps_loader *loader, int64_t grain,
                                     cps_real *planes) {
    const cps_batch *batch;
    CPS_TRY(cps_loader_grain(loader, 0, grain, &batch));
    cps_batch_planes(loader, batch, 0, planes);
    CPS_TRY(note_left_out(g, batch));
    CPS_TRY(g->encoder->images(g->encoder->context, planes, g->components));
    take_grain(g, grain, batch->streams[0].valid, true);
    cps_watchdog_beat(g->comm);
    return CPS_OK;
}

/* The options borrow `stream` and `input`. */
static cps_loader_options loader_options(const cps_loader_stream *stream,
                                         const cps_input_spec *input, int32_t threads) {
    return (cps_loader_options){.order = CPS_ORDER_STORED,
                                .streams = stream,
                                .stream_count = 1,
                                .inputs = input,
                                .input_count = 1,
                                .grains = 1,
                                .parts = 1,
                                .world_size = 1,
                                .steps = 1,
                                .single_use = true,
                                .threads = threads,
                                .ahead = 2};
}

static cps_status encode_images(gathering *g, const cps_stream *stream, int32_t loader_threads) {
    const cps_encoder *encoder = g->encoder;
    const cps_loader_stream rows = {.stream = stream, .rows = encoder->grain};
    const cps_input_spec input = {
        .kind = CPS_INPUT_IMAGE, .recipe = encoder->image_recipe, .text_input = -1};
    cps_loader_options options = loader_options(&rows, &input, loader_threads);
    options.rank = cps_comm_rank(g->comm);
    options.world_size = cps_comm_size(g->comm);
    const int64_t size = encoder->image_recipe.size;
    cps_real *planes = cps_allocate_zero(encoder->grain * 3, size * size, sizeof *planes);
    if (planes == NULL) {
        return fail_memory(encoder->grain, 3 * size * size);
    }
    cps_loader *loader = NULL;
    cps_status status = cps_loader_create(&options, &loader);
    if (status == CPS_OK) {
        int64_t first, last;
        cps_loader_range(loader, 0, &first, &last);
        CPS_BUG_IF(g->first < g->last && (first != g->first || last != g->last));
        status = cps_loader_seek(loader, 0);
    }
    for (int64_t grain = g->first; grain < g->last && status == CPS_OK; grain++) {
        status = encode_image_grain(g, loader, grain, planes);
    }
    cps_loader_destroy(loader);
    free(planes);
    return status;
}

cps_status cps_features_of_images(cps_comm *comm, const cps_encoder *encoder,
                                  const cps_stream *stream, int32_t loader_threads,
                                  cps_features *features_out) {
    gathering g;
    cps_status status = gathering_begin(comm, encoder, cps_stream_records(stream), &g);
    if (status == CPS_OK && g.first < g.last) {
        status = encode_images(&g, stream, loader_threads);
    }
    return gathering_finish(&g, "image features", status, features_out);
}

/* ---- texts ---- */

static cps_status encode_texts(gathering *g, const char *const *texts, bool normalise) {
    const int64_t rows = g->encoder->grain;
    const char **grain_texts = cps_allocate_zero(rows, 1, sizeof *grain_texts);
    uint8_t *valid = cps_allocate_zero(rows, 1, 1);
    cps_status status = grain_texts == NULL || valid == NULL ? fail_memory(rows, 1) : CPS_OK;
    for (int64_t grain = g->first; grain < g->last && status == CPS_OK; grain++) {
        for (int64_t i = 0; i < rows; i++) {
            valid[i] = grain * rows + i < g->rows;
            grain_texts[i] = valid[i] ? texts[grain * rows + i] : "";
        }
        status = g->encoder->texts(g->encoder->context, grain_texts, g->components);
        if (status == CPS_OK) {
            take_grain(g, grain, valid, normalise);
        }
        cps_watchdog_beat(g->comm);
    }
    free(grain_texts);
    free(valid);
    return status;
}

cps_status cps_features_of_texts(cps_comm *comm, const cps_encoder *encoder,
                                 const char *const *texts, int64_t count, bool normalise,
                                 cps_features *features_out) {
    gathering g;
    cps_status status = gathering_begin(comm, encoder, count, &g);
    if (status == CPS_OK) {
        status = encode_texts(&g, texts, normalise);
    }
    return gathering_finish(&g, "text features", status, features_out);
}

/* ---- memory ---- */

size_t cps_features_text_bytes(const cps_encoder *encoder, int64_t count) {
    int64_t width = 0;
    for (int32_t c = 0; c < encoder->component_count; c++) {
        width += encoder->widths[c];
    }
    const size_t rows = (size_t)(cps_ceil_div(count, encoder->grain) * encoder->grain);
    const size_t row = (size_t)width * sizeof(cps_real) + sizeof(int64_t) + 1;
    return (rows + (size_t)encoder->grain) * row;
}

size_t cps_features_image_bytes(const cps_encoder *encoder, const cps_stream *stream,
                                int32_t loader_threads) {
    const cps_loader_stream rows = {.stream = stream, .rows = encoder->grain};
    const cps_input_spec input = {
        .kind = CPS_INPUT_IMAGE, .recipe = encoder->image_recipe, .text_input = -1};
    const cps_loader_options options = loader_options(&rows, &input, loader_threads);
    const size_t side = (size_t)encoder->image_recipe.size;
    size_t loader = 0;
    if (cps_loader_bytes(&options, &loader) != CPS_OK) {
        loader = 0; /* creating it will say why */
    }
    return loader + (size_t)encoder->grain * 3 * side * side * sizeof(cps_real) +
           cps_features_text_bytes(encoder, cps_stream_records(stream));
}
