/* Towers: an image or text encoder with named parameters, run on a tape grain by grain. Equal to
 * open_clip's. The forward pass runs in any mode of the tape. Where nothing below learns, nothing
 * is recorded and the memory of each block is given back: so in PLAIN mode, and for the frozen
 * lower part of a tower in the others. Owned by whoever created it (cps_model, usually); refers to
 * a cps_params that outlives it. Local; one thread at a time. */
#ifndef CPS_MODEL_TOWER_H
#define CPS_MODEL_TOWER_H

#include "model/params.h"
#include "tensor/ops.h"

typedef enum cps_tower_kind { CPS_TOWER_VIT, CPS_TOWER_TEXT, CPS_TOWER_RESNET } cps_tower_kind;

typedef struct cps_tower_config {
    const char *name;   /* "image", "text", "ssl" */
    const char *prefix; /* of parameter names: "visual.", "", "ssl." */
    const char *ema_of; /* this tower is a moving average of that one, or NULL */
    cps_tower_kind kind;
    int64_t image_size, patch;               /* ViT */
    int64_t width, layers, heads, mlp_width; /* mlp_width 0: 4*width. ResNet: width of the pooled
                                                output (2048), layers 50 and the like */
    int64_t embed_dim;                       /* 0: no projection */
    int64_t context, vocabulary;             /* text */
    bool quick_gelu;
    bool pre_norm;    /* ln_pre (CLIP) */
    bool patch_bias;  /* DINO */
    double norm_eps;  /* 0: 1e-5 */
    double drop_path; /* rate of the last block; 0: none */
    bool dino;        /* variant "dino": DINO's names, init, position map */
    double mean[3], std[3];
    bool bilinear, squash; /* preprocessing beside mean and std */
} cps_tower_config;

typedef struct cps_tower cps_tower;

/* What a forward may give; ask only for what is needed. */
enum {
    CPS_OUT_POOLED = 1, /* [B, width]       final norm of the class / end position, unprojected */
    CPS_OUT_PROJECTED = 2,        /* [B, embed_dim]   raw */
    CPS_OUT_FEATURE = 4,          /* [B, embed_dim]   unit norm */
    CPS_OUT_TOKENS = 8,           /* [rows, width]    final norm applied, unprojected */
    CPS_OUT_TOKENS_PROJECTED = 16 /* [rows, embed_dim] */
};
typedef struct cps_tower_input {
    cps_tensor *image; /* ViT: [B,3,H,W], H and W multiples of the patch; positions are resampled
                          where they are not image_size */
    cps_tensor *ids;   /* text: I32 [rows] packed */
    int64_t count;     /* text: sequences B */
    const int32_t *offsets;    /* text: [B+1] rows; host memory that outlives the tape's use */
    const int32_t *ends;       /* text: [B] packed row of the end token */
    bool training;             /* drop path on */
    bool batch_statistics;     /* batch norm by this call's rows, not by the running values */
    const cps_draw_key *draws; /* training with drop path: [B], one key a sample (module is set
                                  here: "drop_path.<block>") */
    double *moments; /* batch_statistics: [cps_tower_moment_count], filled with means and unbiased
                        variances of the batch norms; NULL: not wanted */
} cps_tower_input;
typedef struct cps_tower_output {
    cps_tensor *pooled, *projected, *feature, *tokens, *tokens_projected; /* NULL where not asked */
    const int32_t *offsets;                                               /* [B+1] rows of tokens */
    const int32_t *ends; /* [B] row of the class or end position */
    int64_t count;
} cps_tower_output;

/* Declares the tower's parameters in `params` (borrowed) and keeps their indices. `config` is
 * copied. USAGE for sizes that do not go together, naming both. */
cps_status cps_tower_create(cps_params *params, const cps_tower_config *config,
                            cps_tower **tower_out) CPS_MUST_CHECK;
/* The same tower over other parameters: those named "<prefix of copy><name>" of kind EMA. Never
 * drops paths. */
cps_status cps_tower_create_ema(cps_params *params, const cps_tower *source, const char *name,
                                const char *prefix, cps_tower **tower_out) CPS_MUST_CHECK;
void cps_tower_destroy(cps_tower *tower);
const cps_tower_config *cps_tower_get_config(const cps_tower *tower);
/* Indices of its parameters in `params`. */
const int32_t *cps_tower_params(const cps_tower *tower, int32_t *count_out);
/* Width of one output kind (one CPS_OUT_ bit); 0 for a projected one of a tower without projection.
 */
int64_t cps_tower_output_width(const cps_tower *tower, uint32_t output);
/* Computes `outputs` (a mask of CPS_OUT_). Tensors are the tape's; offsets and ends are the input's
 * (text) or the tower's and live as long as it (ViT). When only class or end positions are asked
 * for, the last block computes only them. USAGE for inputs that do not fit the tower; otherwise the
 * tape's status. */
cps_status cps_tower_forward(const cps_tower *tower, cps_tape *tape, const cps_tower_input *input,
                             uint32_t outputs, cps_tower_output *out) CPS_MUST_CHECK;
/* Batch norm's running statistics: doubles of a row of moments (0: the tower has none), and one
 * move towards a row, the mean over grains of what a call gave: a tenth of the way. */
int64_t cps_tower_moment_count(const cps_tower *tower);
void cps_tower_take_moments(const cps_tower *tower, const double *moments);
/* Positions of an image of the tower's own size, class token included; of a text: the context. */
int64_t cps_tower_positions(const cps_tower *tower);
/* Floating-point operations of a forward over `count` sequences of `positions` rows each (0:
 * cps_tower_positions), projection included; multiply and add are two. Attention counts all pairs
 * of positions. */
double cps_tower_flop(const cps_tower *tower, int64_t count, int64_t positions);

#endif
