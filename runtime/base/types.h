/* The plain types that the engine and objective plugins share: status codes, elements, tensors,
 * options, keys of draws. Installed beside copse_objective.h; needs libc alone. Anything here is
 * part of the plugin ABI: a change of layout or meaning raises CPS_ABI in copse_objective.h. */
#ifndef CPS_BASE_TYPES_H
#define CPS_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define CPS_PRINTF(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#define CPS_MUST_CHECK __attribute__((warn_unused_result))
#else
#define CPS_PRINTF(format_at, args_at)
#define CPS_MUST_CHECK
#endif

/* Master weights, activations and gradients. The test build with REAL=double makes it a double. */
#ifdef CPS_REAL_DOUBLE
typedef double cps_real;
#else
typedef float cps_real;
#endif

/* Status of a call that can fail. The values up to 99 are the program's exit codes (design: README,
 * "Exit codes"). */
typedef enum cps_status {
    CPS_OK = 0,
    CPS_ERR_ENDED = 1, /* the run ended for a stated reason: too many skipped steps or bad images */
    CPS_ERR_USAGE = 64,       /* wrong use, job error */
    CPS_ERR_DATA = 65,        /* bad data: shard, image, weights, checkpoint */
    CPS_ERR_UNAVAILABLE = 69, /* something needed is missing: file, library, plugin, memory */
    CPS_ERR_INTERNAL = 70,    /* a broken invariant of ours */
    CPS_ERR_IO = 74,          /* read, write, rename, disk full */
    CPS_ERR_SIGNAL = 85,      /* checkpointed after a signal, to be continued */
    CPS_ERR_PEER = 100        /* another rank failed; its message stands in for ours */
} cps_status;

typedef enum cps_dtype {
    CPS_REAL = 0,
    CPS_F64 = 1,
    CPS_I32 = 2,
    CPS_I64 = 3,
    CPS_U8 = 4
} cps_dtype;

enum { CPS_MAX_DIMS = 4, CPS_ALIGNMENT = 64 };

/* How the rows of a tensor are spread over the parts of a global batch (README, "Numbers").
 * Row i of the global batch lives in the part p with part_offset[p] <= i < part_offset[p + 1]; this
 * rank holds the rows of parts first_part .. last_part - 1, contiguously. All ranks hold the same
 * part_offset. */
typedef struct cps_layout {
    int64_t part_count;
    const int64_t
        *part_offset; /* [part_count + 1], from 0 to the number of rows of the global batch */
    int64_t first_part, last_part;
} cps_layout;

/* A contiguous, row-major array of up to four dimensions. Tensors made by tape operations belong to
 * the tape and die with its reset; tensors of parameters belong to the model. */
typedef struct cps_tensor {
    void *data; /* 64-byte aligned; NULL while a tape only plans, or where there are no elements */
    cps_real
        *grad; /* gradient of the loss, same shape; NULL where none is asked or none has arrived */
    int64_t shape[CPS_MAX_DIMS];
    const cps_layout *layout; /* rows spread over ranks; NULL: this array is whole */
    int32_t rank;             /* number of dimensions, 0 for a scalar */
    cps_dtype dtype;
    bool needs_grad;
    bool grad_fresh; /* grad holds no value yet: the next writer overwrites instead of adding */
    bool leaf;    /* grad is the owner's storage (parameters, inputs of a loss), not the tape's */
    int32_t id;   /* leaf: the owner's number of it; else -1 */
    int32_t uses; /* private to the tape */
} cps_tensor;

/* One row of an option table: parsing, default, range check, --help and the docs page come from it.
 * The value is written at byte `offset` of the option struct, as the C type beside the kind. Ends
 * with a row whose name is NULL. */
typedef enum cps_option_kind {
    CPS_OPT_NUMBER,   /* double */
    CPS_OPT_INTEGER,  /* int64_t */
    CPS_OPT_BOOL,     /* bool */
    CPS_OPT_CHOICE,   /* int32_t: index into `choices` */
    CPS_OPT_STRING,   /* const char *, NULL when not given and without default; owned by the parsed
                         set */
    CPS_OPT_NUMBERS,  /* cps_numbers of fixed length, by place or by the names in `choices` (what is
                         not  named is 0) */
    CPS_OPT_SCHEDULE, /* cps_numbers: one double a step of the stage, tabulated at start; a lone
                         number is constant */
    CPS_OPT_LINES,    /* cps_lines: a text file, read on rank 0, lines trimmed, broadcast, hashed */
    CPS_OPT_TOWER,    /* const char *: name of a tower of the model */
    CPS_OPT_STREAM    /* const char *: name of a stream of the job */
} cps_option_kind;

typedef struct cps_numbers {
    int64_t count;
    const double *values;
} cps_numbers;

typedef struct cps_lines {
    int64_t count;
    const char *const *lines; /* UTF-8, trimmed, never empty */
    const char *path;         /* as given, for messages */
} cps_lines;

typedef struct cps_option {
    const char *name;
    cps_option_kind kind;
    const char *help;         /* one sentence, with the unit */
    const char *default_text; /* as a job would write it: "0.5", "true", "ot-image", "{1,1}"; NULL:
                                 no default */
    double minimum, maximum;  /* inclusive, for numbers and integers; both 0: no limits */
    const char *const *choices; /* NULL-terminated: of CHOICE, or names of NUMBERS */
    int64_t length;             /* of NUMBERS; 0: any */
    bool required;
    size_t offset;
} cps_option;

/* Interpolation, antialiased as in Pillow: support scaled by the reduction. */
typedef enum cps_filter { CPS_BILINEAR, CPS_BICUBIC } cps_filter;

/* How an image is made from its record (data/augment.h): crop and resize, then the rest in this
 * order. */
typedef enum cps_recipe_kind {
    CPS_RECIPE_EVALUATION, /* shorter side to size, centre crop (or squash); no draws at all */
    CPS_RECIPE_RANDOM_RESIZED_CROP
} cps_recipe_kind;
typedef struct cps_recipe {
    cps_recipe_kind kind;
    int32_t size; /* pixels, output side */
    cps_filter filter;
    bool squash;                 /* EVALUATION: ignore the aspect */
    double scale_min, scale_max; /* crop area as a fraction of the image, uniform */
    double ratio_min, ratio_max; /* width / height, log-uniform */
    double flip;                 /* probability, left-right */
    double jitter;               /* probability of the four that follow, in random order */
    double brightness, contrast, saturation; /* factor in [max(0, 1-x), 1+x] */
    double hue;                              /* turn in [-x, x] of the circle, at most 0.5 */
    double greyscale;                        /* probability */
    double blur;                             /* probability */
    double blur_min, blur_max;               /* pixels, standard deviation, uniform */
    double solarise;                         /* probability: values of 128 and more are inverted */
    double mean[3], std[3];                  /* of cps_image_normalize */
} cps_recipe;

/* Key of a random draw: a pure function of where in the run it happens, never of call order, thread
 * or rank. */
typedef struct cps_draw_key {
    uint64_t seed;
    uint32_t stage, stream;
    uint64_t epoch, position; /* of the stream, and place in it */
    uint32_t view, crop;
    uint32_t module; /* hash of a name: cps_name_key("drop_path.3") */
} cps_draw_key;

#endif
