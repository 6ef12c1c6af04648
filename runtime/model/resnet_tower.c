/* Residual network of bottleneck blocks (He et al., arXiv:1512.03385, table 1; stride on the 3 x 3
 * convolution as torchvision has it), names and initial values torchvision's. Images run with
 * channels last. Batch norm takes the statistics of each call in training and the running ones in
 * evaluation (agriclip.md 2.2.2: of the grain, design 4.1). */
#include "model/tower_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/numeric.h"

enum { STAGES = 4, EXPANSION = 4 };
static const double norm_eps = 1e-5, momentum = 0.1;

/* A convolution and the batch norm behind it. */
typedef struct conv_role {
    int32_t weight, gain, bias, mean, variance;
    int64_t channels, kernel, stride;
    int64_t moments_at; /* of its mean in a row of moments; the variance follows */
} conv_role;

struct cps_resnet {
    int64_t blocks[STAGES];
    int32_t conv_count, capacity;
    conv_role *convs;     /* in the order of the forward pass */
    int64_t moment_count; /* doubles */
};

/* ---- sizes ---- */

static const struct {
    int64_t layers, blocks[STAGES];
} depths[] = {{14, {1, 1, 1, 1}},
              {26, {2, 2, 2, 2}},
              {50, {3, 4, 6, 3}},
              {101, {3, 4, 23, 3}},
              {152, {3, 8, 36, 3}}};

/* The width is that of the last stage: 2048 where the first has 64 channels inside its blocks. */
static cps_status take_sizes(const cps_tower_config *config, cps_resnet *net) {
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        for (int s = 0; s < STAGES && depths[i].layers == config->layers; s++) {
            net->blocks[s] = depths[i].blocks[s];
        }
    }
    if (net->blocks[0] == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "tower '%s': layers is %lld, a residual network has 14, 26, 50, 101 or 152",
                        config->name, (long long)config->layers);
    }
    if (config->width % (8 * EXPANSION) != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "tower '%s': width %lld is no multiple of 32; ResNet-50 has 2048",
                        config->name, (long long)config->width);
    }
    return CPS_OK;
}

static int64_t channels_of(const cps_tower_config *config, int stage) {
    return (config->width / (8 * EXPANSION)) << stage;
}

/* ---- declaring ---- */

/* Running statistics belong to a tower, an averaged copy of it included. */
static int32_t declare_buffer(cps_tower *tower, cps_status *status, const char *name,
                              int64_t channels, double value) {
    const cps_tower *source = tower->source;
    tower->source = NULL;
    const int32_t index = cps_tower_declare_kind(tower, status, name, 1, &channels,
                                                 cps_init_constant(value), CPS_PARAM_BUFFER);
    tower->source = source;
    return index;
}

static cps_status declare_conv(cps_tower *tower, const char *conv, const char *norm, int64_t in,
                               conv_role role) {
    cps_resnet *net = tower->resnet;
    char name[CPS_NAME_MAX];
    const int64_t shape[4] = {role.channels, in, role.kernel, role.kernel};
    cps_status status = CPS_OK;
    if (net->conv_count == net->capacity) {
        return cps_fail(CPS_ERR_INTERNAL, "tower '%s': more convolutions than counted",
                        tower->config.name);
    }
    snprintf(name, sizeof name, "%s.weight", conv);
    role.weight = cps_tower_declare(
        tower, &status, name, 4, shape,
        cps_init_normal(sqrt(2.0 / (double)(role.channels * role.kernel * role.kernel))));
    snprintf(name, sizeof name, "%s.weight", norm);
    role.gain = cps_tower_declare(tower, &status, name, 1, &role.channels, cps_init_constant(1));
    snprintf(name, sizeof name, "%s.bias", norm);
    role.bias = cps_tower_declare(tower, &status, name, 1, &role.channels, cps_init_constant(0));
    snprintf(name, sizeof name, "%s.running_mean", norm);
    role.mean = declare_buffer(tower, &status, name, role.channels, 0);
    snprintf(name, sizeof name, "%s.running_var", norm);
    role.variance = declare_buffer(tower, &status, name, role.channels, 1);
    role.moments_at = net->moment_count;
    net->moment_count += 2 * role.channels;
    net->convs[net->conv_count++] = role;
    return status;
}

static cps_status declare_block(cps_tower *tower, int stage, int64_t block, int64_t in) {
    const int64_t channels = channels_of(&tower->config, stage);
    const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
    const conv_role roles[] = {{.channels = channels, .kernel = 1, .stride = 1},
                               {.channels = channels, .kernel = 3, .stride = stride},
                               {.channels = EXPANSION * channels, .kernel = 1, .stride = 1}};
    const int64_t from[] = {in, channels, channels};
    char conv[CPS_NAME_MAX / 2], norm[CPS_NAME_MAX / 2];
    for (int i = 0; i < 3; i++) {
        snprintf(conv, sizeof conv, "layer%d.%lld.conv%d", stage + 1, (long long)block, i + 1);
        snprintf(norm, sizeof norm, "layer%d.%lld.bn%d", stage + 1, (long long)block, i + 1);
        CPS_TRY(declare_conv(tower, conv, norm, from[i], roles[i]));
    }
    if (block > 0) {
        return CPS_OK;
    }
    const conv_role shortcut = {.channels = EXPANSION * channels, .kernel = 1, .stride = stride};
    snprintf(conv, sizeof conv, "layer%d.0.downsample.0", stage + 1);
    snprintf(norm, sizeof norm, "layer%d.0.downsample.1", stage + 1);
    return declare_conv(tower, conv, norm, in, shortcut);
}

static cps_status declare_network(cps_tower *tower) {
    const int64_t front = channels_of(&tower->config, 0);
    const conv_role stem = {.channels = front, .kernel = 7, .stride = 2};
    CPS_TRY(declare_conv(tower, "conv1", "bn1", 3, stem));
    int64_t in = front;
    for (int stage = 0; stage < STAGES; stage++) {
        for (int64_t block = 0; block < tower->resnet->blocks[stage]; block++) {
            CPS_TRY(declare_block(tower, stage, block, in));
            in = EXPANSION * channels_of(&tower->config, stage);
        }
    }
    return CPS_OK;
}

cps_status cps_resnet_tower_declare(cps_tower *tower) {
    const cps_tower_config *config = &tower->config;
    cps_resnet *net = tower->resnet = calloc(1, sizeof *net);
    if (net == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for tower '%s'", config->name);
    }
    CPS_TRY(take_sizes(config, net));
    net->capacity = 1 + STAGES;
    for (int s = 0; s < STAGES; s++) {
        net->capacity += 3 * (int32_t)net->blocks[s];
    }
    net->convs = calloc((size_t)net->capacity, sizeof *net->convs);
    if (net->convs == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for tower '%s'", config->name);
    }
    CPS_TRY(declare_network(tower));
    cps_status status = CPS_OK;
    if (config->embed_dim > 0) {
        tower->roles.projection = cps_tower_declare(
            tower, &status, "proj", 2, (int64_t[]){config->width, config->embed_dim},
            cps_init_normal(1 / sqrt((double)config->width)));
    }
    return status;
}

void cps_resnet_free(cps_resnet *net) {
    if (net != NULL) {
        free(net->convs);
        free(net);
    }
}

/* ---- running statistics ---- */

int64_t cps_tower_moment_count(const cps_tower *tower) {
    return tower->resnet == NULL ? 0 : tower->resnet->moment_count;
}

static void move_buffer(const cps_tower *tower, int32_t index, const double *towards) {
    const cps_param *param = cps_params_at(tower->params, index);
    cps_real *values = param->tensor.data;
    for (int64_t c = 0; c < param->count; c++) {
        values[c] = (cps_real)((1 - momentum) * (double)values[c] + momentum * towards[c]);
    }
}

void cps_tower_take_moments(const cps_tower *tower, const double *moments) {
    for (int32_t i = 0; tower->resnet != NULL && i < tower->resnet->conv_count; i++) {
        const conv_role *role = &tower->resnet->convs[i];
        move_buffer(tower, role->mean, moments + role->moments_at);
        move_buffer(tower, role->variance, moments + role->moments_at + role->channels);
    }
}

/* ---- forward ---- */

/* relu(norm(conv(x))), or without the last step. */
static cps_tensor *run_conv(const cps_pass *pass, const conv_role *role, cps_tensor *x, bool relu) {
    const cps_tower *tower = pass->tower;
    const cps_tower_input *input = pass->input;
    const bool own = input->batch_statistics;
    cps_tensor *y = cps_conv2d(pass->tape, x, cps_tower_tensor(tower, role->weight), role->stride,
                               role->kernel / 2);
    y = cps_batch_norm(pass->tape, y, cps_tower_tensor(tower, role->gain),
                       cps_tower_tensor(tower, role->bias),
                       own ? NULL : cps_tower_tensor(tower, role->mean),
                       own ? NULL : cps_tower_tensor(tower, role->variance), norm_eps,
                       own && input->moments != NULL ? input->moments + role->moments_at : NULL);
    return relu ? cps_unary(pass->tape, y, CPS_RELU) : y;
}

static cps_tensor *run_block(const cps_pass *pass, const conv_role *roles, bool first,
                             cps_tensor *x) {
    cps_tensor *y = run_conv(pass, &roles[0], x, true);
    y = run_conv(pass, &roles[1], y, true);
    y = run_conv(pass, &roles[2], y, false);
    cps_tensor *shortcut = first ? run_conv(pass, &roles[3], x, false) : x;
    return cps_unary(pass->tape, cps_add(pass->tape, y, shortcut), CPS_RELU);
}

static cps_status check_image(const cps_pass *pass) {
    const cps_tensor *image = pass->input->image;
    const char *name = pass->tower->config.name;
    if (image == NULL) { /* of a failed tape, or a caller's slip */
        CPS_TRY(cps_tape_status(pass->tape));
        return cps_fail(CPS_ERR_USAGE, "tower '%s' reads images, none was given", name);
    }
    return image->rank == 4 && image->shape[1] == 3 && image->dtype == CPS_REAL
               ? CPS_OK
               : cps_fail(CPS_ERR_USAGE, "tower '%s' wants images [rows, 3, height, width]", name);
}

cps_status cps_resnet_tower_forward(const cps_pass *pass, cps_tower_output *out) {
    CPS_TRY(check_image(pass));
    const cps_resnet *net = pass->tower->resnet;
    const conv_role *role = net->convs;
    cps_tape *tape = pass->tape;
    cps_tensor *x = run_conv(pass, role++, cps_channels_last(tape, pass->input->image), true);
    x = cps_max_pool(tape, x, 3, 2, 1);
    for (int stage = 0; stage < STAGES; stage++) {
        for (int64_t block = 0; block < net->blocks[stage]; block++) {
            x = run_block(pass, role, block == 0, x);
            role += block == 0 ? 4 : 3;
        }
    }
    cps_tensor *pooled = cps_mean_positions(tape, x);
    cps_tensor *projection = cps_tower_tensor(pass->tower, pass->tower->roles.projection);
    const bool projects = (pass->outputs & (CPS_OUT_PROJECTED | CPS_OUT_FEATURE)) != 0;
    cps_tensor *projected = projects ? cps_matmul(tape, pooled, projection, false, false, 1) : NULL;
    *out = (cps_tower_output){
        .count = pass->input->image->shape[0],
        .pooled = (pass->outputs & CPS_OUT_POOLED) != 0 ? pooled : NULL,
        .projected = (pass->outputs & CPS_OUT_PROJECTED) != 0 ? projected : NULL,
        .feature =
            (pass->outputs & CPS_OUT_FEATURE) != 0 ? cps_normalize(tape, projected, 1e-12) : NULL};
    return cps_tape_status(tape);
}

double cps_resnet_flop(const cps_tower *tower) {
    const cps_resnet *net = tower->resnet;
    /* Sides after the stem and its pooling; rounded up as the windows are. */
    int64_t side = cps_ceil_div(tower->config.image_size, 2), in = 3, index = 0;
    const conv_role *role = net->convs;
    double total = 2.0 * (double)(side * side * role->channels * in * role->kernel * role->kernel);
    side = cps_ceil_div(side, 2);
    in = role->channels;
    for (int stage = 0; stage < STAGES; stage++) {
        for (int64_t block = 0; block < net->blocks[stage]; block++) {
            const conv_role *roles = &net->convs[index + 1];
            const int64_t after = cps_ceil_div(side, roles[1].stride);
            const double pixels = (double)(side * side), fewer = (double)(after * after);
            const double channels = (double)roles[0].channels;
            total += 2.0 * (pixels * (double)in * channels + fewer * 9.0 * channels * channels +
                            fewer * EXPANSION * channels * channels);
            total += block == 0 ? 2.0 * fewer * (double)in * EXPANSION * channels : 0.0;
            index += block == 0 ? 4 : 3;
            in = EXPANSION * roles[0].channels;
            side = after;
        }
    }
    return total + 2.0 * (double)(tower->config.width * tower->config.embed_dim);
}
