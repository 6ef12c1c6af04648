/* The projection head of DINO: linear layers with GELU, the bottleneck, and the last layer's weight
 * norm (agriclip.md, "The head"). */
#include <math.h>
#include <stddef.h>

#include "dino.h"

static const double norm_eps = 1e-5; /* of batch norm */

enum { TILE = 256 }; /* classes of a task */

/* ---- layers ---- */

static cps_tensor *normed(cps_tape *tape, const agriclip_dino_layer *layer, cps_tensor *x,
                          bool running, double *moments) {
    return cps_batch_norm(tape, x, layer->gain, layer->shift, running ? layer->mean : NULL,
                          running ? layer->variance : NULL, norm_eps, running ? NULL : moments);
}

cps_tensor *agriclip_dino_bottleneck(cps_tape *tape, const agriclip_dino_head *head, cps_tensor *x,
                                     bool running, double *const *moments) {
    for (int64_t i = 0; i + 1 < head->layer_count; i++) {
        const agriclip_dino_layer *layer = &head->layers[i];
        if (layer->gain == NULL) {
            x = cps_linear(tape, x, layer->weight, layer->bias, CPS_ACT_GELU);
        } else {
            x = cps_linear(tape, x, layer->weight, layer->bias, CPS_ACT_NONE);
            x = cps_unary(tape, normed(tape, layer, x, running, moments[i]), CPS_GELU);
        }
    }
    const agriclip_dino_layer *last = &head->layers[head->layer_count - 1];
    return cps_linear(tape, x, last->weight, last->bias, CPS_ACT_NONE);
}

/* ---- weight norm ---- */

typedef struct norm_work {
    int64_t classes, width;
    const cps_real *v, *g;
    double *length;      /* [classes] of the rows of v */
    cps_real *weight;    /* forward: the result */
    const cps_real *d_w; /* backward: what arrived */
    cps_real *d_v, *d_g; /* backward; NULL: not asked */
    bool fresh_v, fresh_g;
} norm_work;

static int64_t tile_end(const norm_work *w, int64_t index) {
    const int64_t end = (index + 1) * TILE;
    return end < w->classes ? end : w->classes;
}

static void forward_tile(void *context, int64_t index) {
    const norm_work *w = context;
    for (int64_t k = index * TILE; k < tile_end(w, index); k++) {
        const cps_real *v = w->v + k * w->width;
        double squares = 0.0;
        for (int64_t i = 0; i < w->width; i++) {
            squares += (double)v[i] * (double)v[i];
        }
        w->length[k] = sqrt(squares);
        const double factor = squares > 0.0 ? (double)w->g[k] / w->length[k] : 0.0;
        for (int64_t i = 0; i < w->width; i++) {
            w->weight[k * w->width + i] = (cps_real)(factor * (double)v[i]);
        }
    }
}

static void put(cps_real *to, bool fresh, double value) {
    *to = fresh ? (cps_real)value : *to + (cps_real)value;
}

/* With u = v / |v|: dg = u . dW, dv = g / |v| (dW - u (u . dW)). */
static void backward_tile(void *context, int64_t index) {
    const norm_work *w = context;
    for (int64_t k = index * TILE; k < tile_end(w, index); k++) {
        const cps_real *v = w->v + k * w->width, *d_w = w->d_w + k * w->width;
        const double inverse = w->length[k] > 0.0 ? 1.0 / w->length[k] : 0.0;
        double along = 0.0;
        for (int64_t i = 0; i < w->width; i++) {
            along += (double)v[i] * (double)d_w[i];
        }
        along *= inverse;
        if (w->d_g != NULL) {
            put(&w->d_g[k], w->fresh_g, along);
        }
        const double factor = (double)w->g[k] * inverse;
        for (int64_t i = 0; i < w->width && w->d_v != NULL; i++) {
            put(&w->d_v[k * w->width + i], w->fresh_v,
                factor * ((double)d_w[i] - along * inverse * (double)v[i]));
        }
    }
}

static norm_work describe(const cps_tensor *v, const cps_tensor *g, double *length) {
    return (norm_work){
        .classes = v->shape[0], .width = v->shape[1], .v = v->data, .g = g->data, .length = length};
}

static int64_t tiles_of(const norm_work *w) {
    return (w->classes + TILE - 1) / TILE;
}

static cps_status weight_backward(cps_tape *tape, const cps_node *node) {
    norm_work w = describe(node->inputs[0], node->inputs[1], node->saved);
    w.d_w = cps_node_grad(tape, node->outputs[0]);
    w.d_v = cps_grad_target(tape, node->inputs[0], &w.fresh_v);
    w.d_g = cps_grad_target(tape, node->inputs[1], &w.fresh_g);
    cps_parallel(tape, tiles_of(&w), backward_tile, &w);
    return CPS_OK;
}

cps_tensor *agriclip_dino_weight(cps_tape *tape, cps_tensor *v, cps_tensor *g) {
    cps_tensor *weight =
        v == NULL || g == NULL ? NULL : cps_tape_tensor(tape, CPS_REAL, 2, v->shape);
    if (weight == NULL) {
        return NULL;
    }
    double *length = cps_tape_save(tape, (size_t)v->shape[0] * sizeof *length);
    const cps_node node = {.backward = weight_backward,
                           .name = "dino.weight",
                           .output_count = 1,
                           .input_count = 2,
                           .outputs = {weight},
                           .inputs = {v, g},
                           .saved = length};
    cps_tape_record(tape, &node);
    if (cps_tape_computes(tape) && cps_tape_status(tape) == CPS_OK) {
        norm_work w = describe(v, g, length);
        w.weight = weight->data;
        cps_parallel(tape, tiles_of(&w), forward_tile, &w);
    }
    return cps_tape_status(tape) == CPS_OK ? weight : NULL;
}
