/* Inside of towers, shared by tower.c, image_tower.c and text_tower.c; weights.c looks up roles in
 * it. Nobody else includes it. */
#ifndef CPS_MODEL_TOWER_PARTS_H
#define CPS_MODEL_TOWER_PARTS_H

#include "model/positions.h"
#include "model/tower.h"

/* Indices into cps_params; -1 where the tower has no such parameter. */
typedef struct cps_pair {
    int32_t weight, bias;
} cps_pair;

typedef struct cps_block_roles {
    cps_pair norm1, qkv, out, norm2, fc, proj;
} cps_block_roles;

typedef struct cps_tower_roles {
    int32_t class_token, positions, tokens, projection;
    cps_pair conv, norm_pre, norm_post;
    cps_block_roles *blocks; /* [layers] */
} cps_tower_roles;

/* Sequences of equal length: offsets[i] = i * length, so an array for many serves fewer. Never
 * freed before the tower, because tapes that are kept refer to it. */
typedef struct cps_runs {
    struct cps_runs *next;
    int64_t length, capacity;
    int32_t offsets[]; /* [capacity + 1] */
} cps_runs;

typedef struct cps_position_map {
    struct cps_position_map *next;
    int64_t rows, columns;
    double *map;
} cps_position_map;

/* What forward passes make once and keep. */
typedef struct cps_tower_cache {
    cps_runs *runs;
    cps_position_map *maps;
} cps_tower_cache;

typedef struct cps_resnet cps_resnet; /* resnet_tower.c */

struct cps_tower {
    cps_tower_config config; /* strings owned; mlp_width and norm_eps filled in */
    cps_params *params;
    const cps_tower *source; /* while an EMA copy is declared: what it follows */
    int32_t *indices;        /* [count], in the order of declaration */
    int32_t count, capacity;
    cps_tower_roles roles;
    cps_tower_cache *cache;
    cps_resnet *resnet; /* NULL: another kind */
};

/* ---- declaring (tower.c) ---- */

/* Declares one parameter (name without the tower's prefix) while *status is CPS_OK; else returns
 * -1. */
int32_t cps_tower_declare(cps_tower *tower, cps_status *status, const char *name, int32_t rank,
                          const int64_t *shape, cps_init init);
/* The same for a kind of its own (buffers). */
int32_t cps_tower_declare_kind(cps_tower *tower, cps_status *status, const char *name, int32_t rank,
                               const int64_t *shape, cps_init init, cps_param_kind kind);
cps_init cps_init_normal(double std);
cps_init cps_init_uniform(double bound); /* -bound .. bound */
cps_init cps_init_constant(double value);
/* "<name>.weight" and "<name>.bias", the gain and shift of a layer norm. */
cps_pair cps_tower_declare_norm(cps_tower *tower, cps_status *status, const char *name);

/* Names and initial values of one block's linear layers, by tower kind. */
typedef struct cps_block_style {
    const char *prefix; /* "transformer.resblocks." */
    const char *norm1, *qkv_weight, *qkv_bias, *out, *norm2, *fc, *proj;
    cps_init qkv, out_weight, fc_weight, fc_bias, proj_weight, proj_bias;
} cps_block_style;
cps_status cps_tower_declare_blocks(cps_tower *tower, const cps_block_style *style);
/* "visual." towers; text towers. */
cps_status cps_image_tower_declare(cps_tower *tower);
cps_status cps_text_tower_declare(cps_tower *tower);
/* Residual networks have blocks of their own. */
cps_status cps_resnet_tower_declare(cps_tower *tower);
void cps_resnet_free(cps_resnet *net);          /* NULL-safe */
double cps_resnet_flop(const cps_tower *tower); /* of one image */

/* ---- running ---- */

/* A pass on its way: x [rows, width], sequences by offsets. */
typedef struct cps_pass {
    const cps_tower *tower;
    cps_tape *tape;
    const cps_tower_input *input;
    uint32_t outputs;
    cps_tensor *x;
    int64_t count;
    const int32_t *offsets, *ends;
    bool causal;
} cps_pass;

cps_tensor *cps_tower_tensor(const cps_tower *tower, int32_t index); /* NULL for -1 */
/* Fill x, count, offsets and ends of the pass. */
cps_status cps_image_tower_start(cps_pass *pass);
cps_status cps_text_tower_start(cps_pass *pass);
cps_status cps_resnet_tower_forward(const cps_pass *pass, cps_tower_output *out);
cps_tensor *cps_tower_norm(const cps_pass *pass, cps_tensor *x, cps_pair norm);

#endif
