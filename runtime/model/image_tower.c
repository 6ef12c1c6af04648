#include "model/tower_parts.h"

#include <math.h>
#include <stdlib.h>

#include "base/numeric.h"

/* The front of a ViT: patches, class token, positions, and norm. Two variants share the code:
 * CLIP's (open_clip's names, norm before the blocks) and DINO's (timm's names, bias on the
 * patches). Initial values: clip-towers.md section 3, agriclip.md 2.2.2. */

/* ---- declaring ---- */

static cps_block_style clip_style(const cps_tower_config *config) {
    const double width = (double)config->width, mlp = (double)config->mlp_width;
    return (cps_block_style){
        .prefix = "transformer.resblocks.",
        .norm1 = "ln_1",
        .qkv_weight = "attn.in_proj_weight",
        .qkv_bias = "attn.in_proj_bias",
        .out = "attn.out_proj",
        .norm2 = "ln_2",
        .fc = "mlp.c_fc",
        .proj = "mlp.c_proj",
        .qkv = cps_init_uniform(sqrt(6 / (4 * width))),
        .out_weight = cps_init_uniform(1 / sqrt(width)),
        .fc_weight = cps_init_uniform(1 / sqrt(width)),
        .fc_bias = cps_init_uniform(1 / sqrt(width)),
        .proj_weight = cps_init_uniform(1 / sqrt(mlp)),
        .proj_bias = cps_init_uniform(1 / sqrt(mlp)),
    };
}

static cps_block_style dino_style(void) {
    return (cps_block_style){
        .prefix = "blocks.",
        .norm1 = "norm1",
        .qkv_weight = "attn.qkv.weight",
        .qkv_bias = "attn.qkv.bias",
        .out = "attn.proj",
        .norm2 = "norm2",
        .fc = "mlp.fc1",
        .proj = "mlp.fc2",
        .qkv = cps_init_normal(0.02),
        .out_weight = cps_init_normal(0.02),
        .fc_weight = cps_init_normal(0.02),
        .fc_bias = cps_init_constant(0),
        .proj_weight = cps_init_normal(0.02),
        .proj_bias = cps_init_constant(0),
    };
}

static cps_status declare_front(cps_tower *tower) {
    const cps_tower_config *config = &tower->config;
    const int64_t width = config->width, grid = config->image_size / config->patch;
    const int64_t positions = 1 + grid * grid, patch = config->patch;
    const double spread = 1 / sqrt((double)width);
    const cps_init conv_init = cps_init_uniform(1 / sqrt((double)(3 * patch * patch)));
    const int64_t conv[] = {width, 3, patch, patch};
    cps_tower_roles *roles = &tower->roles;
    cps_status status = CPS_OK;
    if (config->dino) {
        const cps_init init = cps_init_normal(0.02);
        roles->class_token =
            cps_tower_declare(tower, &status, "cls_token", 3, (int64_t[]){1, 1, width}, init);
        roles->positions = cps_tower_declare(tower, &status, "pos_embed", 3,
                                             (int64_t[]){1, positions, width}, init);
    } else {
        const cps_init init = cps_init_normal(spread);
        roles->class_token = cps_tower_declare(tower, &status, "class_embedding", 1, &width, init);
        roles->positions = cps_tower_declare(tower, &status, "positional_embedding", 2,
                                             (int64_t[]){positions, width}, init);
    }
    roles->conv.weight =
        cps_tower_declare(tower, &status, config->dino ? "patch_embed.proj.weight" : "conv1.weight",
                          4, conv, conv_init);
    if (config->patch_bias) {
        roles->conv.bias =
            cps_tower_declare(tower, &status, config->dino ? "patch_embed.proj.bias" : "conv1.bias",
                              1, &width, conv_init);
    }
    return status;
}

cps_status cps_image_tower_declare(cps_tower *tower) {
    const cps_tower_config *config = &tower->config;
    CPS_TRY(declare_front(tower));
    cps_status status = CPS_OK;
    if (config->pre_norm) {
        tower->roles.norm_pre =
            cps_tower_declare_norm(tower, &status, config->dino ? "norm_pre" : "ln_pre");
    }
    CPS_TRY(status);
    const cps_block_style style = config->dino ? dino_style() : clip_style(config);
    CPS_TRY(cps_tower_declare_blocks(tower, &style));
    tower->roles.norm_post =
        cps_tower_declare_norm(tower, &status, config->dino ? "norm" : "ln_post");
    if (config->embed_dim > 0) {
        tower->roles.projection = cps_tower_declare(
            tower, &status, "proj", 2, (int64_t[]){config->width, config->embed_dim},
            cps_init_normal(1 / sqrt((double)config->width)));
    }
    return status;
}

/* ---- running ---- */

static cps_status runs_of(cps_tower_cache *cache, int64_t length, int64_t count,
                          const int32_t **offsets_out) {
    int64_t largest = 0;
    for (const cps_runs *at = cache->runs; at != NULL; at = at->next) {
        if (at->length == length && at->capacity >= count) {
            *offsets_out = at->offsets;
            return CPS_OK;
        }
        if (at->length == length) {
            largest = cps_max_i64(largest, at->capacity);
        }
    }
    const int64_t capacity = cps_max_i64(count, 2 * largest);
    if (capacity > INT32_MAX / length) {
        return cps_fail(CPS_ERR_USAGE, "%lld images of %lld positions are too many for one pass",
                        (long long)count, (long long)length);
    }
    cps_runs *runs = malloc(sizeof *runs + (size_t)(capacity + 1) * sizeof runs->offsets[0]);
    if (runs == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a batch of %lld images",
                        (long long)count);
    }
    runs->length = length;
    runs->capacity = capacity;
    for (int64_t i = 0; i <= capacity; i++) {
        runs->offsets[i] = (int32_t)(i * length);
    }
    runs->next = cache->runs;
    cache->runs = runs;
    *offsets_out = runs->offsets;
    return CPS_OK;
}

static cps_status map_of(const cps_tower *tower, int64_t rows, int64_t columns,
                         const double **map_out) {
    cps_tower_cache *cache = tower->cache;
    for (const cps_position_map *at = cache->maps; at != NULL; at = at->next) {
        if (at->rows == rows && at->columns == columns) {
            *map_out = at->map;
            return CPS_OK;
        }
    }
    const cps_tower_config *config = &tower->config;
    cps_position_map *made = malloc(sizeof *made);
    if (made == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a position table");
    }
    const cps_status status =
        cps_positions_map(config->dino ? CPS_RESAMPLE_DINO : CPS_RESAMPLE_CLIP,
                          config->image_size / config->patch, rows, columns, &made->map);
    if (status != CPS_OK) {
        free(made);
        return status;
    }
    made->rows = rows;
    made->columns = columns;
    made->next = cache->maps;
    cache->maps = made;
    *map_out = made->map;
    return CPS_OK;
}

/* The position table for an input of rows x columns patches. */
static cps_status positions_for(const cps_pass *pass, int64_t rows, int64_t columns,
                                cps_tensor **table_out) {
    const cps_tower *tower = pass->tower;
    const int64_t grid = tower->config.image_size / tower->config.patch;
    cps_tensor *table = cps_tower_tensor(tower, tower->roles.positions);
    if (tower->config.dino) {
        table =
            cps_reshape(pass->tape, table, 2, (int64_t[]){1 + grid * grid, tower->config.width});
    }
    if (rows != grid || columns != grid) {
        const double *map = NULL;
        CPS_TRY(map_of(tower, rows, columns, &map));
        table = cps_resample_rows(pass->tape, table, 1 + rows * columns, map);
    }
    *table_out = table;
    return CPS_OK;
}

static cps_status check_image(const cps_pass *pass) {
    const cps_tower_config *config = &pass->tower->config;
    const cps_tensor *image = pass->input->image;
    if (image == NULL) { /* of a failed tape, or a caller's slip */
        CPS_TRY(cps_tape_status(pass->tape));
        return cps_fail(CPS_ERR_USAGE, "tower '%s' reads images, none was given", config->name);
    }
    if (image->rank != 4 || image->shape[1] != 3 || image->dtype != CPS_REAL) {
        return cps_fail(CPS_ERR_USAGE, "tower '%s' wants images [rows, 3, height, width]",
                        config->name);
    }
    for (int32_t side = 2; side < 4; side++) {
        if (image->shape[side] < config->patch || image->shape[side] % config->patch != 0) {
            return cps_fail(CPS_ERR_USAGE,
                            "tower '%s' cuts images into patches of %lld pixels, an image side of "
                            "%lld is no multiple of that",
                            config->name, (long long)config->patch, (long long)image->shape[side]);
        }
    }
    return CPS_OK;
}

cps_status cps_image_tower_start(cps_pass *pass) {
    CPS_TRY(check_image(pass));
    const cps_tower *tower = pass->tower;
    const cps_tower_config *config = &tower->config;
    cps_tensor *image = pass->input->image;
    const int64_t rows = image->shape[2] / config->patch, columns = image->shape[3] / config->patch;
    const int64_t length = 1 + rows * columns;
    pass->count = image->shape[0];
    CPS_TRY(runs_of(tower->cache, length, pass->count, &pass->offsets));
    pass->ends = pass->offsets; /* the class token is each sequence's first row */
    cps_tensor *positions = NULL;
    CPS_TRY(positions_for(pass, rows, columns, &positions));
    cps_tensor *class_token = cps_tower_tensor(tower, tower->roles.class_token);
    if (config->dino) {
        class_token = cps_reshape(pass->tape, class_token, 1, &config->width);
    }
    cps_tensor *x =
        cps_patch_embed(pass->tape, image, cps_tower_tensor(tower, tower->roles.conv.weight),
                        cps_tower_tensor(tower, tower->roles.conv.bias), class_token, positions);
    x = cps_reshape(pass->tape, x, 2, (int64_t[]){pass->count * length, config->width});
    pass->x = config->pre_norm ? cps_tower_norm(pass, x, tower->roles.norm_pre) : x;
    return cps_tape_status(pass->tape);
}
