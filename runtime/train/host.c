/* The host's table: operations, services and helpers lent to objective plugins. */
#include "train/stage.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/text.h"
#include "tensor/gemm.h"

static cps_status host_fail(cps_status code, const char *format, ...) CPS_PRINTF(2, 3);
static cps_status host_fail(cps_status code, const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return cps_fail(code == CPS_OK ? CPS_ERR_INTERNAL : code, "%s", message);
}

/* Each text once a run: remembered by hash. Plugins warn from the main thread and from loader
 * threads. */
static void host_warn_once(const char *message) {
    cps_log_once(CPS_LOG_WARN, message);
}

static void host_mt19937(const uint32_t *words, int64_t word_count, int64_t count, uint32_t *out) {
    cps_mt19937 mt;
    cps_mt19937_seed_array(&mt, words, word_count);
    for (int64_t i = 0; i < count; i++) {
        out[i] = cps_mt19937_next(&mt);
    }
}

cps_tensor *cps_serve_tape_tensor(cps_tape *tape, cps_dtype dtype, int32_t rank,
                                  const int64_t *shape) {
    return cps_tape_tensor(tape, dtype, rank, shape);
}

void *cps_serve_tape_save(cps_tape *tape, size_t bytes) {
    return cps_tape_save(tape, bytes);
}

size_t cps_serve_tape_mark(cps_tape *tape) {
    return cps_tape_mark(tape);
}

void cps_serve_tape_release(cps_tape *tape, size_t mark) {
    cps_tape_release(tape, mark);
}

bool cps_serve_tape_record(cps_tape *tape, const cps_node *node) {
    return cps_tape_record(tape, node);
}

bool cps_serve_tape_computes(const cps_tape *tape) {
    return cps_tape_computes(tape);
}

cps_status cps_serve_tape_status(const cps_tape *tape) {
    return cps_tape_status(tape);
}

cps_real *cps_serve_grad_target(cps_tape *tape, cps_tensor *input, bool *fresh_out) {
    return cps_grad_target(tape, input, fresh_out);
}

const cps_real *cps_serve_node_grad(cps_tape *tape, const cps_tensor *output) {
    (void)tape;
    return cps_node_grad(output);
}

void cps_serve_gemm(cps_tape *tape, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                    int64_t k, double alpha, const cps_real *a, int64_t lda, const cps_real *b,
                    int64_t ldb, double beta, cps_real *c, int64_t ldc) {
    (void)tape;
    cps_gemm_exact(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cps_serve_gemm_serial(cps_tape *tape, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                           int64_t k, double alpha, const cps_real *a, int64_t lda,
                           const cps_real *b, int64_t ldb, double beta, cps_real *c, int64_t ldc) {
    (void)tape;
    cps_gemm_serial(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cps_serve_parallel(cps_tape *tape, int64_t n, void (*body)(void *context, int64_t index),
                        void *context) {
    (void)tape;
    cps_parallel(n, body, context);
}

static const cps_host table = {
    .abi = CPS_ABI,
    .bytes = sizeof(cps_host),
    .fail = host_fail,
    .warn_once = host_warn_once,
    .name_key = cps_name_key,
    .draw_u32 = cps_draw_u32,
    .draw_uniform = cps_draw_uniform,
    .draw_normal = cps_draw_normal,
    .draw_below = cps_draw_below,
    .hash64 = cps_hash64,
    .mt19937 = host_mt19937,
    .utf8_lower = cps_utf8_lower,
    .utf8_upper = cps_utf8_upper,
    .utf8_is_word = cps_utf8_is_word,
#define CPS_OP(result, name, parameters, arguments) .name = cps_##name,
#include "tensor/ops.inc"
#undef CPS_OP
#define CPS_SERVICE(result, name, parameters, object, arguments) .name = cps_serve_##name,
#define CPS_SERVICE_VOID(name, parameters, object, arguments) .name = cps_serve_##name,
#include "plugin/services.inc"
#undef CPS_SERVICE
#undef CPS_SERVICE_VOID
};

const cps_host *cps_host_table(void) {
    return &table;
}

cps_status cps_service_fail(cps_status *status, char message[1024], cps_status code,
                            const char *format, ...) {
    if (*status == CPS_OK) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message, 1024, format, arguments);
        va_end(arguments);
        *status = code;
    }
    return cps_service_status(*status, message);
}

cps_status cps_service_status(cps_status status, const char *message) {
    return status == CPS_OK ? CPS_OK : cps_fail(status, "%s", message);
}

bool cps_is_scalar(const cps_tensor *tensor) {
    int64_t count = 1;
    for (int32_t d = 0; d < tensor->rank; d++) {
        count *= tensor->shape[d];
    }
    return count == 1;
}

int32_t cps_output_index(uint32_t output) {
    for (int32_t i = 0; i < CPS_OUTPUT_KINDS; i++) {
        if (output == (1u << i)) {
            return i;
        }
    }
    return -1;
}

int64_t cps_output_width(const cps_tower *tower, uint32_t output) {
    return cps_tower_output_width(tower, output);
}
