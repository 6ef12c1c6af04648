#include "model/tower.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/tower_parts.h"

/* What image and text towers share: creation, the residual blocks, and the way from the last block
 * to the outputs. Pre-norm transformer: x += attention(norm1(x)); x += mlp(norm2(x)). */

/* ---- sizes ---- */

static cps_status check_range(const char *tower, const char *what, int64_t value, int64_t least,
                              int64_t most) {
    if (value < least || value > most) {
        return cps_fail(CPS_ERR_USAGE, "tower '%s': %s is %lld, wanted %lld to %lld", tower, what,
                        (long long)value, (long long)least, (long long)most);
    }
    return CPS_OK;
}

static cps_status check_multiple(const char *tower, const char *what, int64_t value, const char *of,
                                 int64_t divisor) {
    if (value % divisor != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "tower '%s': %s %lld is no multiple of %s %lld; change one of the two",
                        tower, what, (long long)value, of, (long long)divisor);
    }
    return CPS_OK;
}

static cps_status check_config(const cps_tower_config *config) {
    if (config->name == NULL || config->name[0] == '\0' || config->prefix == NULL) {
        return cps_fail(CPS_ERR_USAGE, "a tower needs a name and a prefix of parameter names");
    }
    const char *name = config->name;
    CPS_TRY(check_range(name, "width", config->width, 1, 1 << 16));
    CPS_TRY(check_range(name, "layers", config->layers, 1, 1 << 10));
    if (config->kind == CPS_TOWER_RESNET) {
        CPS_TRY(check_range(name, "embed_dim", config->embed_dim, 0, 1 << 16));
        return check_range(name, "image_size", config->image_size, 1, 1 << 13);
    }
    CPS_TRY(check_range(name, "heads", config->heads, 1, config->width));
    CPS_TRY(check_multiple(name, "width", config->width, "heads", config->heads));
    CPS_TRY(check_range(name, "mlp_width", config->mlp_width, 0, 1 << 20));
    CPS_TRY(check_range(name, "embed_dim", config->embed_dim, 0, 1 << 16));
    if (config->kind == CPS_TOWER_VIT) {
        CPS_TRY(check_range(name, "image_size", config->image_size, 1, 1 << 13));
        CPS_TRY(check_range(name, "patch", config->patch, 1, config->image_size));
        CPS_TRY(check_multiple(name, "image_size", config->image_size, "patch", config->patch));
    } else {
        CPS_TRY(check_range(name, "context", config->context, 1, 1 << 16));
        CPS_TRY(check_range(name, "vocabulary", config->vocabulary, 1, 1 << 24));
    }
    if (!(config->drop_path >= 0 && config->drop_path < 1)) {
        return cps_fail(CPS_ERR_USAGE, "tower '%s': drop_path is %g, wanted 0 up to below 1", name,
                        config->drop_path);
    }
    if (!(config->norm_eps >= 0 && config->norm_eps < 1)) {
        return cps_fail(CPS_ERR_USAGE, "tower '%s': norm_eps is %g, wanted 0 up to below 1", name,
                        config->norm_eps);
    }
    return CPS_OK;
}

/* ---- declaring ---- */

cps_init cps_init_normal(double std) {
    return (cps_init){.kind = CPS_INIT_NORMAL, .a = std};
}

cps_init cps_init_uniform(double bound) {
    return (cps_init){.kind = CPS_INIT_UNIFORM, .a = -bound, .b = bound};
}

cps_init cps_init_constant(double value) {
    return (cps_init){.kind = value == 0 ? CPS_INIT_ZERO : CPS_INIT_CONSTANT, .a = value};
}

static cps_status keep_index(cps_tower *tower, int32_t index) {
    if (tower->count == tower->capacity) {
        const int32_t capacity = tower->capacity == 0 ? 64 : 2 * tower->capacity;
        int32_t *grown = realloc(tower->indices, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for tower '%s'",
                            tower->config.name);
        }
        tower->indices = grown;
        tower->capacity = capacity;
    }
    tower->indices[tower->count++] = index;
    return CPS_OK;
}

/* The prefix of the tower that an EMA copy follows; NULL for other towers. */
static const char *source_prefix(const cps_tower *tower) {
    return tower->source == NULL ? NULL : tower->source->config.prefix;
}

int32_t cps_tower_declare_kind(cps_tower *tower, cps_status *status, const char *name, int32_t rank,
                               const int64_t *shape, cps_init init, cps_param_kind kind) {
    if (*status != CPS_OK) {
        return -1;
    }
    char full[CPS_NAME_MAX + 1], source[CPS_NAME_MAX + 1];
    cps_param_spec spec = {.name = full,
                           .rank = rank,
                           .init = init,
                           .kind = kind,
                           .decay =
                               kind == CPS_PARAM_WEIGHT && cps_param_default_decay(name, rank)};
    const char *followed = source_prefix(tower);
    snprintf(full, sizeof full, "%s%s", tower->config.prefix, name);
    if (followed != NULL) {
        snprintf(source, sizeof source, "%s%s", followed, name);
        spec.kind = CPS_PARAM_EMA;
        spec.ema_of = source;
        spec.decay = false;
    }
    memcpy(spec.shape, shape, (size_t)rank * sizeof *shape);
    int32_t index = -1;
    *status = cps_params_add(tower->params, &spec, &index);
    if (*status == CPS_OK) {
        *status = keep_index(tower, index);
    } else {
        *status = cps_fail_context(*status, "tower '%s'", tower->config.name);
    }
    return index;
}

int32_t cps_tower_declare(cps_tower *tower, cps_status *status, const char *name, int32_t rank,
                          const int64_t *shape, cps_init init) {
    return cps_tower_declare_kind(tower, status, name, rank, shape, init, CPS_PARAM_WEIGHT);
}

cps_pair cps_tower_declare_norm(cps_tower *tower, cps_status *status, const char *name) {
    char full[CPS_NAME_MAX];
    cps_pair pair;
    snprintf(full, sizeof full, "%s.weight", name);
    pair.weight =
        cps_tower_declare(tower, status, full, 1, &tower->config.width, cps_init_constant(1));
    snprintf(full, sizeof full, "%s.bias", name);
    pair.bias =
        cps_tower_declare(tower, status, full, 1, &tower->config.width, cps_init_constant(0));
    return pair;
}

static int32_t declare_in_block(cps_tower *tower, cps_status *status, const char *block,
                                const char *name, int32_t rank, const int64_t *shape,
                                cps_init init) {
    char full[CPS_NAME_MAX];
    snprintf(full, sizeof full, "%s%s", block, name);
    return cps_tower_declare(tower, status, full, rank, shape, init);
}

static cps_pair declare_linear(cps_tower *tower, cps_status *status, const char *block,
                               const char *name, const int64_t shape[2], cps_init weight,
                               cps_init bias) {
    char full[CPS_NAME_MAX];
    cps_pair pair;
    snprintf(full, sizeof full, "%s.weight", name);
    pair.weight = declare_in_block(tower, status, block, full, 2, shape, weight);
    snprintf(full, sizeof full, "%s.bias", name);
    pair.bias = declare_in_block(tower, status, block, full, 1, shape, bias);
    return pair;
}

cps_status cps_tower_declare_blocks(cps_tower *tower, const cps_block_style *style) {
    const int64_t width = tower->config.width, mlp = tower->config.mlp_width;
    const cps_init zero = cps_init_constant(0);
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < tower->config.layers && status == CPS_OK; i++) {
        cps_block_roles *roles = &tower->roles.blocks[i];
        char block[CPS_NAME_MAX / 2], norm[CPS_NAME_MAX];
        snprintf(block, sizeof block, "%s%lld.", style->prefix, (long long)i);
        snprintf(norm, sizeof norm, "%s%s", block, style->norm1);
        roles->norm1 = cps_tower_declare_norm(tower, &status, norm);
        roles->qkv.weight = declare_in_block(tower, &status, block, style->qkv_weight, 2,
                                             (int64_t[]){3 * width, width}, style->qkv);
        roles->qkv.bias = declare_in_block(tower, &status, block, style->qkv_bias, 1,
                                           (int64_t[]){3 * width}, zero);
        roles->out = declare_linear(tower, &status, block, style->out, (int64_t[]){width, width},
                                    style->out_weight, zero);
        snprintf(norm, sizeof norm, "%s%s", block, style->norm2);
        roles->norm2 = cps_tower_declare_norm(tower, &status, norm);
        roles->fc = declare_linear(tower, &status, block, style->fc, (int64_t[]){mlp, width},
                                   style->fc_weight, style->fc_bias);
        roles->proj = declare_linear(tower, &status, block, style->proj, (int64_t[]){width, mlp},
                                     style->proj_weight, style->proj_bias);
    }
    return status;
}

/* ---- life ---- */

static cps_status own_text(const char **text) {
    if (*text != NULL && (*text = strdup(*text)) == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a tower");
    }
    return CPS_OK;
}

/* Takes `config` over; its strings are copied. On failure the caller destroys the tower. */
static cps_status fill_tower(cps_tower *tower, const cps_tower_config *config) {
    const char *name = config->name, *prefix = config->prefix, *ema_of = config->ema_of;
    cps_status status = own_text(&name);
    tower->config = *config;
    tower->config.name = name;
    tower->config.prefix = tower->config.ema_of = NULL;
    CPS_TRY(status);
    status = own_text(&prefix);
    tower->config.prefix = prefix;
    CPS_TRY(status);
    status = own_text(&ema_of);
    tower->config.ema_of = ema_of;
    CPS_TRY(status);
    if (config->mlp_width == 0) {
        tower->config.mlp_width = 4 * config->width;
    }
    if (config->norm_eps == 0) {
        tower->config.norm_eps = 1e-5;
    }
    const cps_pair none = {-1, -1};
    tower->roles = (cps_tower_roles){.class_token = -1,
                                     .positions = -1,
                                     .tokens = -1,
                                     .projection = -1,
                                     .conv = none,
                                     .norm_pre = none,
                                     .norm_post = none};
    tower->roles.blocks = calloc((size_t)config->layers, sizeof *tower->roles.blocks);
    tower->cache = calloc(1, sizeof *tower->cache);
    if (tower->roles.blocks == NULL || tower->cache == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for tower '%s'", config->name);
    }
    return CPS_OK;
}

static cps_status create(cps_params *params, const cps_tower_config *config,
                         const cps_tower *source, cps_tower **tower_out) {
    CPS_TRY(check_config(config));
    cps_tower *tower = calloc(1, sizeof *tower);
    if (tower == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for tower '%s'", config->name);
    }
    tower->params = params;
    tower->source = source;
    cps_status status = fill_tower(tower, config);
    if (status == CPS_OK) {
        status = config->kind == CPS_TOWER_VIT    ? cps_image_tower_declare(tower)
                 : config->kind == CPS_TOWER_TEXT ? cps_text_tower_declare(tower)
                                                  : cps_resnet_tower_declare(tower);
    }
    tower->source = NULL;
    if (status != CPS_OK) {
        cps_tower_destroy(tower);
        return status;
    }
    *tower_out = tower;
    return CPS_OK;
}

cps_status cps_tower_create(cps_params *params, const cps_tower_config *config,
                            cps_tower **tower_out) {
    return create(params, config, NULL, tower_out);
}

cps_status cps_tower_create_ema(cps_params *params, const cps_tower *source, const char *name,
                                const char *prefix, cps_tower **tower_out) {
    if (source->config.ema_of != NULL) {
        return cps_fail(CPS_ERR_USAGE,
                        "tower '%s' is a moving average of '%s' itself; follow that one",
                        source->config.name, source->config.ema_of);
    }
    cps_tower_config config = source->config;
    config.name = name;
    config.prefix = prefix;
    config.ema_of = source->config.name;
    config.drop_path = 0;
    return create(params, &config, source, tower_out);
}

void cps_tower_destroy(cps_tower *tower) {
    if (tower == NULL) {
        return;
    }
    while (tower->cache != NULL && tower->cache->runs != NULL) {
        cps_runs *gone = tower->cache->runs;
        tower->cache->runs = gone->next;
        free(gone);
    }
    while (tower->cache != NULL && tower->cache->maps != NULL) {
        cps_position_map *gone = tower->cache->maps;
        tower->cache->maps = gone->next;
        free(gone->map);
        free(gone);
    }
    cps_resnet_free(tower->resnet);
    free(tower->cache);
    free(tower->roles.blocks);
    free(tower->indices);
    free((void *)(uintptr_t)tower->config.name);
    free((void *)(uintptr_t)tower->config.prefix);
    free((void *)(uintptr_t)tower->config.ema_of);
    free(tower);
}

/* ---- facts ---- */

const cps_tower_config *cps_tower_get_config(const cps_tower *tower) {
    return &tower->config;
}

const int32_t *cps_tower_params(const cps_tower *tower, int32_t *count_out) {
    *count_out = tower->count;
    return tower->indices;
}

int64_t cps_tower_output_width(const cps_tower *tower, uint32_t output) {
    const bool raw = output == CPS_OUT_POOLED || output == CPS_OUT_TOKENS;
    return raw ? tower->config.width : tower->config.embed_dim;
}

int64_t cps_tower_positions(const cps_tower *tower) {
    const cps_tower_config *config = &tower->config;
    if (config->kind != CPS_TOWER_VIT) {
        return config->kind == CPS_TOWER_TEXT ? config->context : 1;
    }
    const int64_t grid = config->image_size / config->patch;
    return 1 + grid * grid;
}

double cps_tower_flop(const cps_tower *tower, int64_t count, int64_t positions) {
    const cps_tower_config *config = &tower->config;
    if (config->kind == CPS_TOWER_RESNET) {
        return (double)count * cps_resnet_flop(tower);
    }
    const double length = (double)(positions > 0 ? positions : cps_tower_positions(tower));
    const double width = (double)config->width, mlp = (double)config->mlp_width;
    const double linear = 2 * length * (4 * width * width + 2 * width * mlp);
    const double attention = 4 * length * length * width;
    double each = (double)config->layers * (linear + attention);
    if (config->kind == CPS_TOWER_VIT) {
        each += 2 * (length - 1) * width * 3 * (double)(config->patch * config->patch);
    }
    each += 2 * width * (double)config->embed_dim;
    return (double)count * each;
}

/* ---- forward ---- */

cps_tensor *cps_tower_tensor(const cps_tower *tower, int32_t index) {
    return index < 0 ? NULL : &cps_params_at(tower->params, index)->tensor;
}

cps_tensor *cps_tower_norm(const cps_pass *pass, cps_tensor *x, cps_pair norm) {
    return cps_layer_norm(pass->tape, x, cps_tower_tensor(pass->tower, norm.weight),
                          cps_tower_tensor(pass->tower, norm.bias), pass->tower->config.norm_eps);
}

static cps_tensor *linear(const cps_pass *pass, cps_tensor *x, cps_pair layer,
                          cps_activation activation) {
    return cps_linear(pass->tape, x, cps_tower_tensor(pass->tower, layer.weight),
                      cps_tower_tensor(pass->tower, layer.bias), activation);
}

enum { BRANCH_ATTENTION, BRANCH_MLP };

/* Stochastic depth (Huang et al., arXiv:1603.09382): each sample's branch is kept with probability
 * 1 - rate and then divided by it. The rate grows linearly from 0 at the first block. One draw a
 * sample, block and branch. */
static cps_tensor *drop_path(const cps_pass *pass, int64_t layer, int branch, cps_tensor *y) {
    const cps_tower_config *config = &pass->tower->config;
    if (!pass->input->training || config->drop_path <= 0 || layer == 0 || y == NULL) {
        return y;
    }
    const double keep = 1 - config->drop_path * (double)layer / (double)(config->layers - 1);
    cps_tensor *scale = cps_tape_tensor(pass->tape, CPS_REAL, 1, y->shape);
    if (scale != NULL && cps_tape_computes(pass->tape)) {
        cps_real *at = scale->data;
        const bool one_row = y->shape[0] == pass->count;
        char module[32];
        snprintf(module, sizeof module, "drop_path.%lld", (long long)layer);
        for (int64_t i = 0; i < pass->count; i++) {
            cps_draw_key key = pass->input->draws[i];
            key.module = cps_name_key(module);
            const double draw = cps_draw_uniform(&key, (uint64_t)branch);
            const cps_real value = (cps_real)(floor(keep + draw) / keep);
            const int32_t rows = one_row ? 1 : pass->offsets[i + 1] - pass->offsets[i];
            for (int32_t row = 0; row < rows; row++) {
                *at++ = value;
            }
        }
    }
    return cps_scale_rows(pass->tape, y, scale);
}

/* x + branch(x) of one block. only_ends: of the class or end positions alone, [count, width]. */
static cps_tensor *add_attention(const cps_pass *pass, int64_t layer, bool only_ends) {
    const cps_block_roles *roles = &pass->tower->roles.blocks[layer];
    cps_tensor *x = pass->x;
    cps_tensor *y = cps_tower_norm(pass, x, roles->norm1);
    y = linear(pass, y, roles->qkv, CPS_ACT_NONE);
    y = cps_attention(pass->tape, y, (int32_t)pass->tower->config.heads, pass->count, pass->offsets,
                      pass->causal);
    if (only_ends) {
        y = cps_take_rows(pass->tape, y, pass->count, pass->ends);
        x = cps_take_rows(pass->tape, x, pass->count, pass->ends);
    }
    y = linear(pass, y, roles->out, CPS_ACT_NONE);
    y = drop_path(pass, layer, BRANCH_ATTENTION, y);
    return cps_add(pass->tape, x, y);
}

static cps_tensor *add_mlp(const cps_pass *pass, int64_t layer) {
    const cps_block_roles *roles = &pass->tower->roles.blocks[layer];
    const bool quick = pass->tower->config.quick_gelu;
    cps_tensor *y = cps_tower_norm(pass, pass->x, roles->norm2);
    y = linear(pass, y, roles->fc, quick ? CPS_ACT_QUICK_GELU : CPS_ACT_GELU);
    y = linear(pass, y, roles->proj, CPS_ACT_NONE);
    y = drop_path(pass, layer, BRANCH_MLP, y);
    return cps_add(pass->tape, pass->x, y);
}

static bool pair_learns(const cps_tower *tower, cps_pair pair) {
    return cps_tower_tensor(tower, pair.weight)->needs_grad ||
           cps_tower_tensor(tower, pair.bias)->needs_grad;
}

/* Whether the tape keeps what a branch computes. */
static bool is_recorded(const cps_pass *pass, int64_t layer, int branch) {
    const cps_tower *tower = pass->tower;
    const cps_block_roles *roles = &tower->roles.blocks[layer];
    if (cps_tape_get_mode(pass->tape) == CPS_TAPE_PLAIN) {
        return false;
    }
    if (pass->x->needs_grad) {
        return true;
    }
    return branch == BRANCH_ATTENTION
               ? pair_learns(tower, roles->norm1) || pair_learns(tower, roles->qkv) ||
                     pair_learns(tower, roles->out)
               : pair_learns(tower, roles->norm2) || pair_learns(tower, roles->fc) ||
                     pair_learns(tower, roles->proj);
}

/* Half a block. Where nothing is recorded the result goes over x and the memory in between is given
 * back: nobody else holds x, which the front of the tower or an earlier half made. */
static void run_branch(cps_pass *pass, int64_t layer, int branch, bool only_ends) {
    if (pass->x == NULL) {
        return;
    }
    const bool recorded = is_recorded(pass, layer, branch);
    cps_tensor *place = pass->x;
    if (!recorded && branch == BRANCH_ATTENTION && only_ends) {
        place = cps_tape_tensor(pass->tape, CPS_REAL, 2,
                                (int64_t[]){pass->count, pass->tower->config.width});
    }
    const size_t mark = cps_tape_mark(pass->tape);
    cps_tensor *y =
        branch == BRANCH_ATTENTION ? add_attention(pass, layer, only_ends) : add_mlp(pass, layer);
    if (recorded || y == NULL || place == NULL) {
        pass->x = y;
        return;
    }
    if (cps_tape_computes(pass->tape)) {
        memcpy(place->data, y->data, (size_t)(y->shape[0] * y->shape[1]) * sizeof(cps_real));
    }
    cps_tape_release(pass->tape, mark);
    pass->x = place;
}

static void run_blocks(cps_pass *pass, bool only_ends) {
    const int64_t layers = pass->tower->config.layers;
    for (int64_t layer = 0; layer < layers; layer++) {
        const bool last = layer == layers - 1;
        run_branch(pass, layer, BRANCH_ATTENTION, only_ends && last);
        run_branch(pass, layer, BRANCH_MLP, only_ends && last);
    }
}

/* From the last block's x, [rows, width] or [count, width], to what was asked for. */
static void finish(const cps_pass *pass, bool only_ends, cps_tower_output *out) {
    enum { OF_ENDS = CPS_OUT_POOLED | CPS_OUT_PROJECTED | CPS_OUT_FEATURE };
    cps_tape *tape = pass->tape;
    cps_tensor *projection = cps_tower_tensor(pass->tower, pass->tower->roles.projection);
    cps_tensor *normed = cps_tower_norm(pass, pass->x, pass->tower->roles.norm_post);
    if ((pass->outputs & OF_ENDS) != 0) {
        cps_tensor *pooled =
            only_ends ? normed : cps_take_rows(tape, normed, pass->count, pass->ends);
        out->pooled = (pass->outputs & CPS_OUT_POOLED) != 0 ? pooled : NULL;
        if ((pass->outputs & (CPS_OUT_PROJECTED | CPS_OUT_FEATURE)) != 0) {
            cps_tensor *projected = cps_matmul(tape, pooled, projection, false, false, 1);
            out->projected = (pass->outputs & CPS_OUT_PROJECTED) != 0 ? projected : NULL;
            out->feature = (pass->outputs & CPS_OUT_FEATURE) != 0
                               ? cps_normalize(tape, projected, 1e-12)
                               : NULL;
        }
    }
    out->tokens = (pass->outputs & CPS_OUT_TOKENS) != 0 ? normed : NULL;
    if ((pass->outputs & CPS_OUT_TOKENS_PROJECTED) != 0) {
        out->tokens_projected = cps_matmul(tape, normed, projection, false, false, 1);
    }
}

static cps_status check_outputs(const cps_tower *tower, const cps_tower_input *input,
                                uint32_t outputs, cps_tape *tape) {
    enum {
        PROJECTED = CPS_OUT_PROJECTED | CPS_OUT_FEATURE | CPS_OUT_TOKENS_PROJECTED,
        TOKENS = CPS_OUT_TOKENS | CPS_OUT_TOKENS_PROJECTED
    };
    const cps_tower_config *config = &tower->config;
    if ((outputs & PROJECTED) != 0 && config->embed_dim == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "tower '%s' has no projection: ask for 'pooled' or 'tokens', or give the "
                        "tower an embed_dim",
                        config->name);
    }
    if (config->kind == CPS_TOWER_RESNET && (outputs & TOKENS) != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "tower '%s' is a residual network, which has no tokens: ask for 'pooled'",
                        config->name);
    }
    if (input->training && config->drop_path > 0 && input->draws == NULL &&
        cps_tape_get_mode(tape) != CPS_TAPE_PLAN) {
        return cps_fail(CPS_ERR_INTERNAL, "tower '%s' drops paths but was given no draw keys",
                        config->name);
    }
    return CPS_OK;
}

cps_status cps_tower_forward(const cps_tower *tower, cps_tape *tape, const cps_tower_input *input,
                             uint32_t outputs, cps_tower_output *out) {
    CPS_TRY(check_outputs(tower, input, outputs, tape));
    cps_pass pass = {.tower = tower, .tape = tape, .input = input, .outputs = outputs};
    if (tower->config.kind == CPS_TOWER_RESNET) {
        return cps_resnet_tower_forward(&pass, out);
    }
    CPS_TRY(tower->config.kind == CPS_TOWER_VIT ? cps_image_tower_start(&pass)
                                                : cps_text_tower_start(&pass));
    const bool only_ends = (outputs & (CPS_OUT_TOKENS | CPS_OUT_TOKENS_PROJECTED)) == 0;
    cps_tower_output result = {.offsets = pass.offsets, .ends = pass.ends, .count = pass.count};
    run_blocks(&pass, only_ends);
    finish(&pass, only_ends, &result);
    CPS_TRY(cps_tape_status(tape));
    *out = result;
    return CPS_OK;
}
