#include "model/hf_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct name_row {
    const char *ours, *theirs;
    bool transposed;
} name_row;

/* ("pre_layrnorm" is spelt so there.) */
static const name_row whole[] = {
    {"visual.class_embedding", "vision_model.embeddings.class_embedding", false},
    {"visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight", false},
    {"visual.positional_embedding", "vision_model.embeddings.position_embedding.weight", false},
    {"visual.ln_pre.weight", "vision_model.pre_layrnorm.weight", false},
    {"visual.ln_pre.bias", "vision_model.pre_layrnorm.bias", false},
    {"visual.ln_post.weight", "vision_model.post_layernorm.weight", false},
    {"visual.ln_post.bias", "vision_model.post_layernorm.bias", false},
    {"visual.proj", "visual_projection.weight", true},
    {"token_embedding.weight", "text_model.embeddings.token_embedding.weight", false},
    {"positional_embedding", "text_model.embeddings.position_embedding.weight", false},
    {"ln_final.weight", "text_model.final_layer_norm.weight", false},
    {"ln_final.bias", "text_model.final_layer_norm.bias", false},
    {"text_projection", "text_projection.weight", true},
    {"logit_scale", "logit_scale", false},
};

/* Inside a block; "attn.in_proj_*" are three each. */
static const name_row in_block[] = {
    {"ln_1.weight", "layer_norm1.weight", false},
    {"ln_1.bias", "layer_norm1.bias", false},
    {"ln_2.weight", "layer_norm2.weight", false},
    {"ln_2.bias", "layer_norm2.bias", false},
    {"attn.out_proj.weight", "self_attn.out_proj.weight", false},
    {"attn.out_proj.bias", "self_attn.out_proj.bias", false},
    {"mlp.c_fc.weight", "mlp.fc1.weight", false},
    {"mlp.c_fc.bias", "mlp.fc1.bias", false},
    {"mlp.c_proj.weight", "mlp.fc2.weight", false},
    {"mlp.c_proj.bias", "mlp.fc2.bias", false},
};

static bool block_pieces(const char *side, long layer, const char *rest, cps_hf_pieces *out) {
    static const char parts[] = "qkv";
    static const char stacked[] = "attn.in_proj_";
    if (strncmp(rest, stacked, sizeof stacked - 1) == 0) {
        const char *what = rest + sizeof stacked - 1;
        if (strcmp(what, "weight") != 0 && strcmp(what, "bias") != 0) {
            return false;
        }
        out->count = CPS_HF_PIECES;
        for (int32_t i = 0; i < CPS_HF_PIECES; i++) {
            snprintf(out->names[i], CPS_HF_NAME_MAX, "%s.encoder.layers.%ld.self_attn.%c_proj.%s",
                     side, layer, parts[i], what);
        }
        return true;
    }
    for (size_t i = 0; i < sizeof in_block / sizeof *in_block; i++) {
        if (strcmp(rest, in_block[i].ours) == 0) {
            snprintf(out->names[0], CPS_HF_NAME_MAX, "%s.encoder.layers.%ld.%s", side, layer,
                     in_block[i].theirs);
            return true;
        }
    }
    return false;
}

bool cps_hf_pieces_of(const char *name, cps_hf_pieces *out) {
    static const char visual[] = "visual.", blocks[] = "transformer.resblocks.";
    *out = (cps_hf_pieces){.count = 1};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        if (strcmp(name, whole[i].ours) == 0) {
            snprintf(out->names[0], CPS_HF_NAME_MAX, "%s", whole[i].theirs);
            out->transposed = whole[i].transposed;
            return true;
        }
    }
    const bool is_visual = strncmp(name, visual, sizeof visual - 1) == 0;
    const char *rest = is_visual ? name + sizeof visual - 1 : name;
    if (strncmp(rest, blocks, sizeof blocks - 1) != 0) {
        return false;
    }
    rest += sizeof blocks - 1;
    char *end = NULL;
    const long layer = strtol(rest, &end, 10);
    if (end == rest || *end != '.' || layer < 0) {
        return false;
    }
    return block_pieces(is_visual ? "vision_model" : "text_model", layer, end + 1, out);
}
