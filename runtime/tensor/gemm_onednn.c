/* The only user of oneDNN: products of bf16 operands, added up in fp32.
 *
 * The library is large (40 MB) and most runs do not need it, so it is opened when bf16 is asked for
 * and not linked. It brings OpenMP; every thread that calls it says first that it wants one thread,
 * because the pool makes the parallelism and bits must not depend on it.
 *
 * A product is packed once, both operands (gemm_pack), then strips of rows are tasks. The library's
 * kernels are generated for fixed shapes, which costs about a millisecond each. Grains of captions
 * have any number of rows, so shapes are rounded: depth to 64, rows to 32; C takes its last rows,
 * and whatever is not plain (rows further apart, alpha, other beta), from a small buffer. */
#include "tensor/gemm_engine.h"

#if defined(__x86_64__) && !defined(CPS_REAL_DOUBLE) && defined(__has_include)
#if __has_include(<dnnl.h>)
#include <dnnl.h>
#if DNNL_VERSION_MAJOR == 2
#define HAVE_ONEDNN
#endif
#endif
#endif

#ifdef HAVE_ONEDNN
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/numeric.h"
#include "base/pool.h"
#include "tensor/gemm_pack.h"
#include "tensor/op.h"

#define LIBRARY "libdnnl.so.2"
#define INSTEAD "use precision = \"fp32\" or \"auto\""

/* ---- the library ---- */
/* clang-format off */
#define FUNCTIONS(F)                                                                               \
    F(dnnl_engine_create) F(dnnl_get_effective_cpu_isa) F(dnnl_matmul_desc_init)                   \
    F(dnnl_memory_create) F(dnnl_memory_desc_get_size) F(dnnl_memory_desc_init_by_tag)             \
    F(dnnl_memory_destroy) F(dnnl_post_ops_append_sum) F(dnnl_post_ops_create)                     \
    F(dnnl_post_ops_destroy) F(dnnl_primitive_attr_create) F(dnnl_primitive_attr_destroy)          \
    F(dnnl_primitive_attr_set_post_ops) F(dnnl_primitive_attr_set_scratchpad_mode)                 \
    F(dnnl_primitive_create) F(dnnl_primitive_desc_create) F(dnnl_primitive_desc_destroy)          \
    F(dnnl_primitive_desc_query_md) F(dnnl_primitive_destroy) F(dnnl_primitive_execute)            \
    F(dnnl_set_primitive_cache_capacity) F(dnnl_stream_create) F(dnnl_version)
/* clang-format on */

enum { KERNELS_MAX = 1024, ROWS = 32, STRIP = CPS_ONEDNN_STRIP, COUNTS = STRIP / ROWS };

/* One generated product: C [rows, n] (+)= A B, C dense. */
typedef struct kernel_key {
    int64_t rows, n, depth;
    bool add;
} kernel_key;

typedef struct kernel {
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t a, b, c, scratch;
} kernel;

/* A product of the call under way, and its kernels. */
typedef struct prepared {
    const cps_product *product;
    bool plain; /* straight into C */
    cps_packing a, b;
    const kernel *direct[COUNTS + 1]; /* by rows / ROWS; 0: none */
    const kernel *buffered;           /* ROWS rows into a slot; NULL: not needed */
} prepared;

/* Process-wide, as the engine is. Written by the main thread between parallel loops. */
static struct {
#define MEMBER(name) __typeof__(&name) name;
    FUNCTIONS(MEMBER)
#undef MEMBER
    void (*omp_set_num_threads)(int);
    void *handle;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    char name[96];
    kernel_key keys[KERNELS_MAX]; /* of kernels[i] */
    kernel kernels[KERNELS_MAX];
    int32_t kernel_count;
    unsigned char *memory; /* reserved addresses; pages come with use */
    size_t memory_bytes;
    prepared products[CPS_PRODUCTS_MAX];
    int64_t piece_first[2 * CPS_PRODUCTS_MAX + 1]; /* packing tasks: A, B, A, B, ... */
    int32_t count;
    cps_slots slots; /* of each thread: ROWS rows of C, then the library's scratch */
    int64_t slot_rows_bytes;
} one;

static _Atomic uint64_t slots_taken[CPS_MAX_SLOTS / 64];

/* The library's loops run on the calling thread alone. OpenMP keeps the number for each thread. */
static void call_on_one_thread(void) {
    static _Thread_local bool told;
    if (!told) {
        one.omp_set_num_threads(1);
        told = true;
    }
}

/* dlsym hands out functions as objects; ISO C converts only through memory. */
static bool find(const char *name, void *function_out) {
    void *symbol = dlsym(one.handle, name);
    memcpy(function_out, &symbol, sizeof symbol);
    return symbol != NULL;
}

static cps_status load(void) {
    one.handle = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL);
    if (one.handle == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "precision \"bf16\" needs the library oneDNN: %s. Install it (Debian: "
                        "apt-get install libdnnl2) on every node, or " INSTEAD,
                        dlerror());
    }
    const char *missing = NULL;
#define FIND(name) missing = find(#name, &one.name) ? missing : #name;
    FUNCTIONS(FIND)
#undef FIND
    missing = find("omp_set_num_threads", &one.omp_set_num_threads)
                  ? missing
                  : "omp_set_num_threads (OpenMP)";
    if (missing != NULL) {
        dlclose(one.handle);
        one.handle = NULL;
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "precision \"bf16\": the library '" LIBRARY
                        "' has no function %s; install Debian's libdnnl2 (oneDNN %d.%d with "
                        "OpenMP), or " INSTEAD,
                        missing, DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR);
    }
    return CPS_OK;
}

/* Addresses for packed operands, as many as the machine has memory: a product's packed operands are
 * half as large as the operands. Under a limit on addresses, less. */
static cps_status reserve(void) {
    const size_t least = (size_t)1 << 30;
    size_t bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    void *memory = MAP_FAILED;
    for (; memory == MAP_FAILED && bytes >= least; bytes /= 2) {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        one.memory_bytes = bytes;
    }
    if (memory == MAP_FAILED) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "precision \"bf16\": no 1 GiB of addresses for packed operands; raise the "
                        "limit on virtual memory (ulimit -v), or " INSTEAD);
    }
    /* Packing writes and reads many rows at once. Without large pages it is slower, no more. */
    (void)madvise(memory, one.memory_bytes, MADV_HUGEPAGE);
    one.memory = memory;
    return CPS_OK;
}

/* ---- kernels ---- */

static dnnl_memory_desc_t describe(int64_t rows, int64_t columns, dnnl_data_type_t type,
                                   dnnl_format_tag_t tag) {
    const dnnl_dims_t dims = {rows, columns};
    dnnl_memory_desc_t made;
    memset(&made, 0, sizeof made);
    CPS_BUG_IF(one.dnnl_memory_desc_init_by_tag(&made, 2, dims, type, tag) != dnnl_success);
    return made;
}

static dnnl_status_t make(const kernel_key *key, kernel *k) {
    k->a = describe(key->rows, key->depth, dnnl_bf16, dnnl_ab);
    k->b = describe(key->depth, key->n, dnnl_bf16, dnnl_BA16a64b2a);
    k->c = describe(key->rows, key->n, dnnl_f32, dnnl_ab);
    dnnl_matmul_desc_t product;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t after = NULL;
    dnnl_primitive_desc_t description = NULL;
    dnnl_status_t status = one.dnnl_matmul_desc_init(&product, &k->a, &k->b, NULL, &k->c);
    status = status != dnnl_success ? status : one.dnnl_primitive_attr_create(&attributes);
    status = status != dnnl_success ? status : one.dnnl_post_ops_create(&after);
    if (status == dnnl_success && key->add) {
        status = one.dnnl_post_ops_append_sum(after, 1.0F);
    }
    if (status == dnnl_success) {
        status = one.dnnl_primitive_attr_set_post_ops(attributes, after);
    }
    if (status == dnnl_success) {
        status = one.dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user);
    }
    if (status == dnnl_success) {
        status =
            one.dnnl_primitive_desc_create(&description, &product, attributes, one.engine, NULL);
    }
    if (status == dnnl_success) {
        k->scratch = *one.dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
        status = one.dnnl_primitive_create(&k->primitive, description);
    }
    one.dnnl_primitive_desc_destroy(description);
    one.dnnl_post_ops_destroy(after);
    one.dnnl_primitive_attr_destroy(attributes);
    return status;
}

/* Main thread: kernels are made here, never in a task. */
static const kernel *kernel_for(int64_t rows, int64_t n, int64_t depth, bool add) {
    for (int32_t i = 0; i < one.kernel_count; i++) {
        const kernel_key *key = &one.keys[i];
        if (key->rows == rows && key->n == n && key->depth == depth && key->add == add) {
            return &one.kernels[i];
        }
    }
    CPS_BUG_IF(one.kernel_count == KERNELS_MAX);
    kernel_key *key = &one.keys[one.kernel_count];
    kernel *made = &one.kernels[one.kernel_count];
    *key = (kernel_key){.rows = rows, .n = n, .depth = depth, .add = add};
    CPS_BUG_IF(make(key, made) != dnnl_success);
    one.kernel_count++;
    return made;
}

/* At most `wanted` more are about to be asked for, and those in hand must stay. */
static void make_room(int32_t wanted) {
    if (one.kernel_count + wanted <= KERNELS_MAX) {
        return;
    }
    for (int32_t i = 0; i < one.kernel_count; i++) {
        one.dnnl_primitive_destroy(one.kernels[i].primitive);
    }
    one.kernel_count = 0;
}

static dnnl_memory_t at(const dnnl_memory_desc_t *description, void *values) {
    dnnl_memory_t made = NULL;
    CPS_BUG_IF(one.dnnl_memory_create(&made, description, one.engine, values) != dnnl_success);
    return made;
}

/* C = A B or C += A B, on this thread. */
static void execute(const kernel *k, const uint16_t *a, const uint16_t *b, float *c,
                    void *scratch) {
    call_on_one_thread();
    /* The library takes what it only reads without const. */
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, at(&k->a, (void *)(uintptr_t)a)},
                                         {DNNL_ARG_WEIGHTS, at(&k->b, (void *)(uintptr_t)b)},
                                         {DNNL_ARG_DST, at(&k->c, c)},
                                         {DNNL_ARG_SCRATCHPAD, at(&k->scratch, scratch)}};
    enum { COUNT = sizeof arguments / sizeof arguments[0] };
    CPS_BUG_IF(one.dnnl_primitive_execute(k->primitive, one.stream, COUNT, arguments) !=
               dnnl_success);
    for (int i = 0; i < COUNT; i++) {
        one.dnnl_memory_destroy(arguments[i].memory);
    }
}

/* ---- start ---- */

/* A first product: what is wrong with library or CPU shows here, where it can be said. */
static cps_status try_out(void) {
    _Alignas(64) uint16_t a[ROWS * CPS_PACK_DEPTH], b[CPS_PACK_DEPTH * CPS_PACK_OUTER];
    _Alignas(64) float c[ROWS * CPS_PACK_OUTER];
    const kernel_key key = {.rows = ROWS, .n = CPS_PACK_OUTER, .depth = CPS_PACK_DEPTH};
    kernel k = {.primitive = NULL};
    for (int i = 0; i < ROWS * CPS_PACK_DEPTH; i++) {
        a[i] = 0x3f80; /* 1 */
    }
    for (int i = 0; i < CPS_PACK_DEPTH * CPS_PACK_OUTER; i++) {
        b[i] = 0x4000; /* 2 */
    }
    const dnnl_status_t status = make(&key, &k);
    if (status != dnnl_success) {
        return cps_fail(
            CPS_ERR_UNAVAILABLE,
            "precision \"bf16\": oneDNN cannot make a product (its status %d); " INSTEAD,
            (int)status);
    }
    const size_t scratch_bytes = one.dnnl_memory_desc_get_size(&k.scratch);
    if (scratch_bytes <= one.memory_bytes) {
        execute(&k, a, b, c, one.memory);
    }
    one.dnnl_primitive_destroy(k.primitive);
    if (c[0] != 2.0F * CPS_PACK_DEPTH || c[ROWS * CPS_PACK_OUTER - 1] != c[0]) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "precision \"bf16\": a first product gave %g instead of %d: this oneDNN "
                        "does not fit this CPU; " INSTEAD,
                        (double)c[0], 2 * CPS_PACK_DEPTH);
    }
    return CPS_OK;
}

static const char *kernel_family(void) {
    const unsigned isa = (unsigned)one.dnnl_get_effective_cpu_isa();
    return (isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx     ? "AMX"
           : (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16 ? "AVX512-BF16"
                                                                                    : NULL;
}

cps_status cps_onednn_start(void) {
    if (one.name[0] != '\0') {
        return CPS_OK;
    }
    if (!cps_pack_can()) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "precision \"bf16\": this CPU has neither AMX nor AVX512-BF16 (Intel since "
                        "Sapphire Rapids, AMD since Zen 4); " INSTEAD);
    }
    CPS_TRY(load());
    call_on_one_thread();
    const char *family = kernel_family();
    if (family == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "precision \"bf16\": oneDNN takes no bf16 kernels on this CPU; unset "
                        "ONEDNN_MAX_CPU_ISA and DNNL_MAX_CPU_ISA, or " INSTEAD);
    }
    CPS_TRY(reserve());
    /* Kernels are kept here; the library's own store would keep them twice. */
    if (one.dnnl_set_primitive_cache_capacity(0) != dnnl_success ||
        one.dnnl_engine_create(&one.engine, dnnl_cpu, 0) != dnnl_success ||
        one.dnnl_stream_create(&one.stream, one.engine, dnnl_stream_default_flags) !=
            dnnl_success) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "precision \"bf16\": oneDNN does not start on this machine; " INSTEAD);
    }
    CPS_TRY(try_out());
    const dnnl_version_t *version = one.dnnl_version();
    snprintf(one.name, sizeof one.name, "bf16 (%s, oneDNN %d.%d.%d)", family, version->major,
             version->minor, version->patch);
    return CPS_OK;
}

const char *cps_onednn_name(void) {
    return one.name;
}

/* ---- one product ---- */

static void pick_kernels(prepared *r) {
    const cps_product *p = r->product;
    const int64_t depth = cps_pack_padded(p->k);
    r->plain = p->ldc == p->n && p->alpha == 1.0 && (p->beta == 0.0 || p->beta == 1.0);
    const int64_t last = p->m % STRIP / ROWS; /* of the last strip */
    const bool add = p->beta != 0.0;
    if (r->plain && p->m >= STRIP) {
        r->direct[COUNTS] = kernel_for(STRIP, p->n, depth, add);
    }
    if (r->plain && last > 0) {
        r->direct[last] = kernel_for(last * ROWS, p->n, depth, add);
    }
    if (!r->plain || p->m % ROWS != 0) {
        r->buffered = kernel_for(ROWS, p->n, depth, false);
    }
}

/* The next `bytes` of the reserved addresses. */
static void *take(size_t *used, int64_t bytes) {
    void *start = one.memory + *used;
    const size_t wanted = ((size_t)bytes + 63) & ~(size_t)63;
    CPS_BUG_IF(bytes < 0 || wanted > one.memory_bytes - *used); /* beyond the machine's memory */
    *used += wanted;
    return start;
}

static int64_t scratch_bytes(const kernel *k) {
    return k == NULL ? 0 : (int64_t)one.dnnl_memory_desc_get_size(&k->scratch);
}

static void prepare_one(prepared *r, size_t *used, int64_t *scratch) {
    const cps_product *p = r->product;
    r->a = (cps_packing){.along = !p->transpose_a,
                         .outer = p->m,
                         .depth = p->k,
                         .stride = p->lda,
                         .from = p->a,
                         .to = take(used, cps_pack_bytes(p->m, p->k))};
    r->b = (cps_packing){.is_b = true,
                         .along = p->transpose_b,
                         .outer = p->n,
                         .depth = p->k,
                         .stride = p->ldb,
                         .from = p->b,
                         .to = take(used, cps_pack_bytes(p->n, p->k))};
    pick_kernels(r);
    for (int i = 0; i <= COUNTS; i++) {
        *scratch = cps_max_i64(*scratch, scratch_bytes(r->direct[i]));
    }
    *scratch = cps_max_i64(*scratch, scratch_bytes(r->buffered));
    if (r->buffered != NULL) {
        one.slot_rows_bytes =
            cps_max_i64(one.slot_rows_bytes, ROWS * cps_pack_padded(p->n) * (int64_t)sizeof(float));
    }
}

static void pack_task(void *context, int64_t index) {
    (void)context;
    int32_t which = 0;
    while (index >= one.piece_first[which + 1]) {
        which++;
    }
    const prepared *r = &one.products[which / 2];
    cps_pack_piece(which % 2 == 0 ? &r->a : &r->b, index - one.piece_first[which]);
}

void cps_onednn_prepare(int32_t count, const cps_product *const *products) {
    call_on_one_thread();
    make_room(count * 3);
    one.count = count;
    one.slot_rows_bytes = 0;
    size_t used = 0;
    int64_t scratch = 0;
    for (int32_t i = 0; i < count; i++) {
        prepared *r = &one.products[i];
        *r = (prepared){.product = products[i]};
        prepare_one(r, &used, &scratch);
        one.piece_first[2 * i + 1] = one.piece_first[2 * i] + cps_pack_pieces(&r->a);
        one.piece_first[2 * i + 2] = one.piece_first[2 * i + 1] + cps_pack_pieces(&r->b);
    }
    const int64_t slot = cps_ceil_div(one.slot_rows_bytes + scratch, 64) * 64;
    one.slots = (cps_slots){.stride = slot / (int64_t)sizeof(cps_real),
                            .count = (int32_t)cps_slots_count(),
                            .taken = slots_taken};
    one.slots.base = take(&used, slot * one.slots.count);
    cps_parallel(one.piece_first[2 * count], pack_task, NULL);
}

/* C = alpha X + beta C for `rows` rows; beta = 0 writes whatever C held. */
static void put(const cps_product *p, int64_t row, int64_t rows, const float *x) {
    const float alpha = (float)p->alpha, beta = (float)p->beta;
    for (int64_t i = 0; i < rows; i++) {
        cps_real *c = p->c + (row + i) * p->ldc;
        const float *from = x + i * p->n;
        for (int64_t j = 0; j < p->n; j++) {
            const float value = alpha * from[j];
            c[j] = beta == 0.0F ? value : value + beta * c[j];
        }
    }
}

void cps_onednn_strip(int32_t which, int64_t row, int64_t row_end) {
    const prepared *r = &one.products[which];
    const cps_product *p = r->product;
    const int64_t depth = cps_pack_padded(p->k);
    int32_t slot;
    cps_real *rows = cps_slot_take(&one.slots, &slot);
    void *scratch = (unsigned char *)rows + one.slot_rows_bytes;
    const int64_t whole = r->plain ? (row_end - row) / ROWS : 0;
    if (whole > 0) {
        execute(r->direct[whole], r->a.to + row * depth, r->b.to, p->c + row * p->ldc, scratch);
    }
    for (int64_t at_row = row + whole * ROWS; at_row < row_end; at_row += ROWS) {
        execute(r->buffered, r->a.to + at_row * depth, r->b.to, rows, scratch);
        put(p, at_row, cps_min_i64(ROWS, row_end - at_row), rows);
    }
    cps_slot_give(&one.slots, slot);
}

#else

cps_status cps_onednn_start(void) {
#ifdef CPS_REAL_DOUBLE
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "precision \"bf16\" does not exist in the build with double elements; use "
                    "precision = \"fp32\" or \"auto\"");
#elif !defined(__x86_64__)
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "precision \"bf16\" exists on x86-64 CPUs only; use precision = \"fp32\" or "
                    "\"auto\"");
#else
    return cps_fail(CPS_ERR_UNAVAILABLE,
                    "precision \"bf16\": this program was built without oneDNN 2; install its "
                    "header (Debian: apt-get install libdnnl-dev) and build again with 'make "
                    "clean' and 'make', or use precision = \"fp32\" or \"auto\"");
#endif
}

const char *cps_onednn_name(void) {
    return "";
}

void cps_onednn_prepare(int32_t count, const cps_product *const *products) {
    (void)count;
    (void)products;
    CPS_BUG_IF(true); /* cps_onednn_start never succeeds */
}

void cps_onednn_strip(int32_t which, int64_t row, int64_t row_end) {
    (void)which;
    (void)row;
    (void)row_end;
    CPS_BUG_IF(true);
}

#endif
