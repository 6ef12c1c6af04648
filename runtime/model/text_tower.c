#include "model/tower_parts.h"

#include <math.h>

/* The front of a text tower: token table and positions over packed sequences. The mask is causal,
 * so that positions after the end token cannot reach the feature and need not be there. Initial
 * values: clip-towers.md section 3. */

cps_status cps_text_tower_declare(cps_tower *tower) {
    const cps_tower_config *config = &tower->config;
    const double width = (double)config->width, mlp = (double)config->mlp_width;
    const double attention = 1 / sqrt(width);
    const cps_init residual = cps_init_normal(attention / sqrt(2 * (double)config->layers));
    const cps_block_style style = {
        .prefix = "transformer.resblocks.",
        .norm1 = "ln_1",
        .qkv_weight = "attn.in_proj_weight",
        .qkv_bias = "attn.in_proj_bias",
        .out = "attn.out_proj",
        .norm2 = "ln_2",
        .fc = "mlp.c_fc",
        .proj = "mlp.c_proj",
        .qkv = cps_init_normal(attention),
        .out_weight = residual,
        .fc_weight = cps_init_normal(1 / sqrt(2 * width)),
        .fc_bias = cps_init_uniform(1 / sqrt(width)),
        .proj_weight = residual,
        .proj_bias = cps_init_uniform(1 / sqrt(mlp)),
    };
    cps_tower_roles *roles = &tower->roles;
    cps_status status = CPS_OK;
    roles->tokens =
        cps_tower_declare(tower, &status, "token_embedding.weight", 2,
                          (int64_t[]){config->vocabulary, config->width}, cps_init_normal(0.02));
    roles->positions =
        cps_tower_declare(tower, &status, "positional_embedding", 2,
                          (int64_t[]){config->context, config->width}, cps_init_normal(0.01));
    CPS_TRY(status);
    CPS_TRY(cps_tower_declare_blocks(tower, &style));
    roles->norm_post = cps_tower_declare_norm(tower, &status, "ln_final");
    if (config->embed_dim > 0) {
        roles->projection = cps_tower_declare(tower, &status, "text_projection", 2,
                                              (int64_t[]){config->width, config->embed_dim},
                                              cps_init_normal(attention));
    }
    return status;
}

/* Offsets and ends are the loader's work; a slip there would read outside of arrays, so they are
 * looked over here. */
static cps_status check_text(const cps_pass *pass) {
    const cps_tower_config *config = &pass->tower->config;
    const cps_tower_input *input = pass->input;
    if (input->ids == NULL || input->offsets == NULL || input->ends == NULL) {
        CPS_TRY(cps_tape_status(pass->tape));
        return cps_fail(CPS_ERR_USAGE, "tower '%s' reads texts, none was given", config->name);
    }
    if (input->ids->dtype != CPS_I32 || input->ids->rank != 1 || input->offsets[0] != 0 ||
        input->offsets[input->count] != input->ids->shape[0]) {
        return cps_fail(CPS_ERR_INTERNAL,
                        "tower '%s': %lld packed texts end at row %d of %lld token ids",
                        config->name, (long long)input->count, input->offsets[input->count],
                        (long long)input->ids->shape[0]);
    }
    for (int64_t i = 0; i < input->count; i++) {
        const int32_t first = input->offsets[i], last = input->offsets[i + 1];
        if (last <= first || input->ends[i] < first || input->ends[i] >= last) {
            return cps_fail(CPS_ERR_INTERNAL,
                            "tower '%s': text %lld has rows %d to %d and its end at row %d",
                            config->name, (long long)i, first, last - 1, input->ends[i]);
        }
        if (last - first > config->context) {
            return cps_fail(CPS_ERR_USAGE,
                            "tower '%s': text %lld has %d tokens, the tower's context is %lld; "
                            "shorten it or raise text.context",
                            config->name, (long long)i, last - first, (long long)config->context);
        }
    }
    return CPS_OK;
}

cps_status cps_text_tower_start(cps_pass *pass) {
    CPS_TRY(check_text(pass));
    const cps_tower *tower = pass->tower;
    const cps_tower_input *input = pass->input;
    pass->count = input->count;
    pass->offsets = input->offsets;
    pass->ends = input->ends;
    pass->causal = true;
    pass->x = cps_embed_tokens(pass->tape, input->ids, input->count, input->offsets,
                               cps_tower_tensor(tower, tower->roles.tokens),
                               cps_tower_tensor(tower, tower->roles.positions));
    return cps_tape_status(pass->tape);
}
