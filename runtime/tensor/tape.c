/* The tape. Descriptions (tensors, nodes) live in blocks of the tape's own that survive a reset, so
 * that a PLAN tape, whose arena gives no memory, runs the same code and a repeated step allocates
 * nothing. Bytes of tensors come from the arena.
 *
 * Gradients of results lie in buffers with a count of holders: an operation that only hands its
 * gradient on (add, reshape) makes the input another holder; whoever wants to add to a buffer with
 * several holders takes a copy first. Used-up buffers go to a free list by size. All buffers that a
 * backward function writes are taken before it runs, in the order of its inputs, so that a plan
 * takes the same ones. */
#include "tensor/tape.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numeric.h"
#include "comm/comm.h"
#include "tensor/op.h"

typedef struct gradient {
    cps_real *data;
    size_t bytes;
    int32_t holders;       /* a borrowed one has a holder that never leaves */
    struct gradient *next; /* in the free list */
} gradient;

/* Every tensor that a tape makes; leaves of other owners (parameters) are bare cps_tensors. */
typedef struct own_tensor {
    cps_tensor tensor; /* first */
    gradient *gradient;
} own_tensor;

typedef struct tape_node {
    cps_node node;
    uint32_t flags;
    struct tape_node *previous;
} tape_node;

typedef struct seed {
    cps_tensor *tensor;
    const cps_real *values;
    struct seed *next;
} seed;

enum { BLOCK_BYTES = 1 << 16 };
typedef struct block {
    struct block *next;
    _Alignas(16) unsigned char bytes[BLOCK_BYTES];
} block;

struct cps_tape {
    const void *host; /* first: header inlines of plugins rely on it */
    cps_arena *arena;
    cps_tape_mode mode;
    cps_status status;
    bool failure_agreed;
    bool replayed;
    bool begun; /* `base` is set: the arena's mark where this recording began */
    size_t base;
    block *first_block, *block;
    size_t block_used;
    tape_node *last_node;
    seed *seeds, **seed_end;
    gradient *free_gradients;
    /* By leaf id: nodes that still have to run, and the leaf (for two wraps of one parameter). */
    int32_t *leaf_uses;
    uint8_t *leaf_reached; /* some node adds to its gradient; stays until the reset */
    cps_tensor **leaves;
    int64_t leaf_capacity;
    cps_tape_hooks hooks;
    cps_comm *comm;
};

/* ---- life
 * ------------------------------------------------------------------------------------------------------------------
 */
cps_status cps_tape_create(cps_arena *arena, cps_tape_mode mode, const void *host,
                           cps_tape **tape_out) {
    cps_tape *tape = calloc(1, sizeof *tape);
    block *first = malloc(sizeof *first);
    if (tape == NULL || first == NULL) {
        free(tape);
        free(first);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a tape (%zu bytes)",
                        sizeof *tape + sizeof *first);
    }
    first->next = NULL;
    tape->first_block = first;
    tape->block = first;
    tape->host = host;
    tape->arena = arena;
    tape->mode = mode;
    tape->seed_end = &tape->seeds;
    *tape_out = tape;
    return CPS_OK;
}

void cps_tape_destroy(cps_tape *tape) {
    if (tape == NULL) {
        return;
    }
    while (tape->first_block != NULL) {
        block *next = tape->first_block->next;
        free(tape->first_block);
        tape->first_block = next;
    }
    free(tape->leaf_uses);
    free(tape->leaf_reached);
    free(tape->leaves);
    free(tape);
}

void cps_tape_reset(cps_tape *tape) {
    if (tape->begun && cps_arena_used(tape->arena) > tape->base) {
        cps_arena_reset(tape->arena, tape->base);
    }
    tape->begun = false;
    tape->block = tape->first_block;
    tape->block_used = 0;
    tape->last_node = NULL;
    tape->seeds = NULL;
    tape->seed_end = &tape->seeds;
    tape->free_gradients = NULL;
    tape->replayed = false;
    tape->status = CPS_OK;
    tape->failure_agreed = false;
    if (tape->leaf_capacity > 0) {
        memset(tape->leaf_uses, 0, (size_t)tape->leaf_capacity * sizeof *tape->leaf_uses);
        memset(tape->leaf_reached, 0, (size_t)tape->leaf_capacity);
        memset(tape->leaves, 0, (size_t)tape->leaf_capacity * sizeof *tape->leaves);
    }
}

cps_status cps_tape_status(const cps_tape *tape) {
    return tape->status;
}
bool cps_tape_failure_agreed(const cps_tape *tape) {
    return tape->failure_agreed;
}
cps_tape_mode cps_tape_get_mode(const cps_tape *tape) {
    return tape->mode;
}
bool cps_tape_computes(const cps_tape *tape) {
    return tape->status == CPS_OK && tape->mode != CPS_TAPE_PLAN;
}
void cps_tape_set_hooks(cps_tape *tape, const cps_tape_hooks *hooks) {
    tape->hooks = hooks != NULL ? *hooks : (cps_tape_hooks){0};
}
void cps_tape_set_comm(cps_tape *tape, cps_comm *comm) {
    tape->comm = comm;
}
cps_comm *cps_tape_comm(const cps_tape *tape) {
    return tape->comm;
}

void cps_tape_set_failed(cps_tape *tape, cps_status status, bool agreed) {
    if (tape->status == CPS_OK) {
        tape->status = status;
    }
    tape->failure_agreed = tape->failure_agreed || agreed;
}

cps_tensor *cps_tape_fail(cps_tape *tape, cps_status code, const char *format, ...) {
    if (tape->status == CPS_OK) {
        char message[512];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
        tape->status = cps_fail(code, "%s", message);
    }
    return NULL;
}

/* ---- memory
 * ----------------------------------------------------------------------------------------------------------------
 */
/* Zeroed bytes for a description, until the reset. */
static void *describe(cps_tape *tape, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    CPS_BUG_IF(bytes > BLOCK_BYTES);
    if (tape->block_used + bytes > BLOCK_BYTES) {
        if (tape->block->next == NULL) {
            block *next = malloc(sizeof *next);
            if (next == NULL) {
                return cps_tape_fail(tape, CPS_ERR_UNAVAILABLE,
                                     "out of memory for a tape's records (%zu bytes)",
                                     sizeof *next);
            }
            next->next = NULL;
            tape->block->next = next;
        }
        tape->block = tape->block->next;
        tape->block_used = 0;
    }
    void *place = tape->block->bytes + tape->block_used;
    tape->block_used += bytes;
    return memset(place, 0, bytes);
}

/* Bytes of the arena; NULL in PLAN mode and when the arena is full (the tape has failed then). */
static void *take(cps_tape *tape, size_t bytes) {
    if (tape->status != CPS_OK) {
        return NULL;
    }
    if (!tape->begun) {
        tape->begun = true;
        tape->base = cps_arena_mark(tape->arena);
    }
    void *place = cps_arena_alloc(tape->arena, bytes);
    if (place == NULL && tape->mode != CPS_TAPE_PLAN) {
        cps_tape_set_failed(tape, CPS_ERR_UNAVAILABLE, false);
    }
    return place;
}

void *cps_tape_save(cps_tape *tape, size_t bytes) {
    return take(tape, bytes);
}

size_t cps_tape_mark(cps_tape *tape) {
    return cps_arena_mark(tape->arena);
}

void cps_tape_release(cps_tape *tape, size_t mark) {
    cps_arena_reset(tape->arena, mark);
}

size_t cps_scratch_size(int64_t count) {
    const size_t bytes = (size_t)count * sizeof(cps_real);
    return (bytes + CPS_ALIGNMENT - 1) & ~(size_t)(CPS_ALIGNMENT - 1);
}

cps_real *cps_scratch(cps_tape *tape, int64_t count) {
    return take(tape, (size_t)count * sizeof(cps_real));
}

/* ---- tensors
 * ---------------------------------------------------------------------------------------------------------------
 */
static own_tensor *tensor_new(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape,
                              size_t *bytes_out) {
    if (tape->status != CPS_OK) {
        return NULL;
    }
    if (rank < 0 || rank > CPS_MAX_DIMS) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "a tensor of %d dimensions was asked for; 0 to %d are possible", (int)rank,
                      (int)CPS_MAX_DIMS);
        return NULL;
    }
    int64_t count = 1;
    for (int32_t d = 0; d < rank; d++) {
        if (!cps_mul_i64(count, shape[d], &count)) {
            cps_tape_fail(
                tape, CPS_ERR_USAGE,
                "dimension %d of a tensor is %lld: it is negative or the tensor too large", (int)d,
                (long long)shape[d]);
            return NULL;
        }
    }
    if (!cps_mul_size((size_t)count, cps_dtype_bytes(dtype), bytes_out)) {
        cps_tape_fail(tape, CPS_ERR_USAGE, "a tensor of %lld elements is too large",
                      (long long)count);
        return NULL;
    }
    own_tensor *own = describe(tape, sizeof *own);
    if (own != NULL) {
        own->tensor.rank = rank;
        own->tensor.dtype = dtype;
        own->tensor.id = -1;
        for (int32_t d = 0; d < rank; d++) {
            own->tensor.shape[d] = shape[d];
        }
    }
    return own;
}

cps_tensor *cps_tape_tensor(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape) {
    size_t bytes;
    own_tensor *own = tensor_new(tape, dtype, rank, shape, &bytes);
    if (own == NULL) {
        return NULL;
    }
    own->tensor.data = take(tape, bytes);
    return tape->status == CPS_OK ? &own->tensor : NULL;
}

cps_tensor *cps_tape_view(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape,
                          void *data) {
    size_t bytes;
    own_tensor *own = tensor_new(tape, dtype, rank, shape, &bytes);
    if (own == NULL) {
        return NULL;
    }
    own->tensor.data = data;
    return &own->tensor;
}

/* Room in the tables by leaf id. */
static bool leaf_room(cps_tape *tape, int32_t id) {
    if (id < tape->leaf_capacity) {
        return true;
    }
    const int64_t old = tape->leaf_capacity;
    const int64_t capacity = cps_max_i64(2 * old, (int64_t)id + 256);
    int32_t *uses = realloc(tape->leaf_uses, (size_t)capacity * sizeof *uses);
    if (uses != NULL) {
        tape->leaf_uses = uses;
    }
    cps_tensor **leaves = realloc(tape->leaves, (size_t)capacity * sizeof *leaves);
    if (leaves != NULL) {
        tape->leaves = leaves;
    }
    uint8_t *reached = realloc(tape->leaf_reached, (size_t)capacity);
    if (reached != NULL) {
        tape->leaf_reached = reached;
    }
    if (uses == NULL || leaves == NULL || reached == NULL) {
        cps_tape_fail(tape, CPS_ERR_UNAVAILABLE, "out of memory for a tape's table of %lld leaves",
                      (long long)capacity);
        return false;
    }
    memset(uses + old, 0, (size_t)(capacity - old) * sizeof *uses);
    memset(leaves + old, 0, (size_t)(capacity - old) * sizeof *leaves);
    memset(reached + old, 0, (size_t)(capacity - old));
    tape->leaf_capacity = capacity;
    return true;
}

cps_tensor *cps_tape_leaf(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape,
                          void *data, cps_real *grad, int32_t id) {
    if (tape->status != CPS_OK || (id >= 0 && !leaf_room(tape, id))) {
        return NULL;
    }
    /* One parameter wrapped twice is one leaf: grad_fresh must not be asked in two places. */
    if (id >= 0 && tape->leaves[id] != NULL && tape->leaves[id]->data == data &&
        tape->leaves[id]->grad == grad) {
        return tape->leaves[id];
    }
    cps_tensor *leaf = cps_tape_view(tape, dtype, rank, shape, data);
    if (leaf == NULL) {
        return NULL;
    }
    leaf->leaf = true;
    leaf->grad = grad;
    leaf->needs_grad = grad != NULL;
    leaf->id = id;
    if (id >= 0) {
        tape->leaves[id] = leaf;
    }
    return leaf;
}

/* ---- recording
 * -------------------------------------------------------------------------------------------------------------
 */
bool cps_tape_will_record(const cps_tape *tape, int32_t count, cps_tensor *const *inputs) {
    if (tape->status != CPS_OK || tape->mode == CPS_TAPE_PLAIN) {
        return false;
    }
    for (int32_t i = 0; i < count; i++) {
        if (inputs[i] != NULL && inputs[i]->needs_grad) {
            return true;
        }
    }
    return false;
}

/* Rows spread over ranks and whole tensors must not be mixed where the result would be one rank's
 * part of a sum. */
static bool layouts_allow(cps_tape *tape, const cps_node *node) {
    bool spread = false, whole_learns = false, out_spread = false;
    for (int32_t i = 0; i < node->input_count; i++) {
        const cps_tensor *input = node->inputs[i];
        spread = spread || (input != NULL && input->layout != NULL);
        whole_learns =
            whole_learns || (input != NULL && input->layout == NULL && input->needs_grad);
    }
    for (int32_t o = 0; o < node->output_count; o++) {
        out_spread = out_spread || node->outputs[o]->layout != NULL;
    }
    if (!spread || (out_spread && !whole_learns)) {
        return true;
    }
    cps_tape_fail(tape, CPS_ERR_USAGE,
                  out_spread ? "%s: a tensor that is whole on every rank wants a gradient from "
                               "rows that are spread over "
                               "ranks; gather the rows first (cps_gather)"
                             : "%s: the result would hold this rank's rows only, since its operand "
                               "is spread over ranks; "
                               "gather it first (cps_gather) or use cps_batch_sum",
                  node->name);
    return false;
}

bool cps_tape_record_with(cps_tape *tape, const cps_node *node, uint32_t flags) {
    if (tape->status != CPS_OK || ((flags & CPS_COLLECTIVE) == 0 && !layouts_allow(tape, node)) ||
        !cps_tape_will_record(tape, node->input_count, node->inputs)) {
        return false;
    }
    for (int32_t i = 0; i < node->input_count; i++) {
        const cps_tensor *input = node->inputs[i];
        if (input != NULL && input->needs_grad && input->leaf && input->id >= 0) {
            if (!leaf_room(tape, input->id)) {
                return false;
            }
            tape->leaf_uses[input->id]++;
            tape->leaf_reached[input->id] = 1;
        }
    }
    tape_node *copy = describe(tape, sizeof *copy);
    if (copy == NULL) {
        return false;
    }
    copy->node = *node;
    copy->flags = flags;
    copy->previous = tape->last_node;
    tape->last_node = copy;
    for (int32_t o = 0; o < node->output_count; o++) {
        node->outputs[o]->needs_grad = true;
    }
    return true;
}

bool cps_tape_record(cps_tape *tape, const cps_node *node) {
    if (node->output_count < 1 || node->output_count > CPS_NODE_MAX || node->input_count < 0 ||
        node->input_count > CPS_NODE_MAX) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "%s: %d outputs and %d inputs; 1 to %d and 0 to %d are possible", node->name,
                      (int)node->output_count, (int)node->input_count, (int)CPS_NODE_MAX,
                      (int)CPS_NODE_MAX);
        return false;
    }
    return cps_tape_record_with(tape, node, 0);
}

bool cps_tape_reaches_leaf(const cps_tape *tape, int32_t id) {
    return id >= 0 && id < tape->leaf_capacity && tape->leaf_reached[id] != 0;
}

/* ---- gradients
 * -------------------------------------------------------------------------------------------------------------
 */
static own_tensor *own_of(cps_tensor *tensor) {
    CPS_BUG_IF(tensor->leaf);
    return (own_tensor *)tensor;
}

static bool has_gradient(const cps_tensor *tensor) {
    return tensor->needs_grad && !tensor->leaf && ((const own_tensor *)tensor)->gradient != NULL &&
           !tensor->grad_fresh;
}

/* A buffer for the gradient of `tensor`, uninitialised; NULL when the arena is full. */
static gradient *gradient_take(cps_tape *tape, const cps_tensor *tensor) {
    const size_t bytes = cps_scratch_size(cps_count_of(tensor));
    for (gradient **at = &tape->free_gradients; *at != NULL; at = &(*at)->next) {
        gradient *found = *at;
        if (found->bytes == bytes) {
            *at = found->next;
            found->holders = 1;
            return found;
        }
    }
    gradient *made = describe(tape, sizeof *made);
    if (made != NULL) {
        made->bytes = bytes;
        made->holders = 1;
        made->data = take(tape, bytes);
    }
    return tape->status == CPS_OK ? made : NULL;
}

static void gradient_hold(own_tensor *own, gradient *buffer) {
    own->gradient = buffer;
    own->tensor.grad = buffer != NULL ? buffer->data : NULL;
}

static void gradient_drop(cps_tape *tape, own_tensor *own) {
    gradient *buffer = own->gradient;
    if (buffer != NULL && --buffer->holders == 0) {
        buffer->next = tape->free_gradients;
        tape->free_gradients = buffer;
    }
    gradient_hold(own, NULL);
    own->tensor.grad_fresh = false;
}

/* Makes the gradient of a result writable: its own buffer, new (fresh) or with what arrived so far.
 */
static cps_status gradient_prepare(cps_tape *tape, cps_tensor *tensor) {
    own_tensor *own = own_of(tensor);
    gradient *old = own->gradient;
    if (old != NULL && old->holders == 1) {
        return CPS_OK;
    }
    gradient *made = gradient_take(tape, tensor);
    if (made == NULL) {
        return tape->status;
    }
    gradient_hold(own, made);
    if (old == NULL) {
        tensor->grad_fresh = true;
        return CPS_OK;
    }
    old->holders--;
    if (cps_tape_computes(tape)) {
        cps_copy(cps_count_of(tensor), old->data, made->data);
    }
    return CPS_OK;
}

const cps_real *cps_node_grad(const cps_tensor *output) {
    return output->grad;
}

cps_real *cps_grad_target(cps_tape *tape, cps_tensor *input, bool *fresh_out) {
    if (input == NULL || !input->needs_grad || tape->status != CPS_OK ||
        tape->mode == CPS_TAPE_PLAN) {
        return NULL;
    }
    *fresh_out = input->grad_fresh;
    input->grad_fresh = false;
    return input->grad;
}

/* Adds `values` to the gradient of `tensor`. */
static cps_status gradient_add(cps_tape *tape, cps_tensor *tensor, const cps_real *values) {
    if (!tensor->leaf) {
        CPS_TRY(gradient_prepare(tape, tensor));
    }
    if (tape->mode == CPS_TAPE_PLAN) {
        tensor->grad_fresh = tensor->leaf && tensor->grad_fresh;
        return CPS_OK;
    }
    bool fresh;
    cps_real *target = cps_grad_target(tape, tensor, &fresh);
    if (target != NULL) {
        cps_put(cps_count_of(tensor), values, fresh, target);
    }
    return CPS_OK;
}

/* The gradient of `output` is also that of `input`. */
static cps_status gradient_pass(cps_tape *tape, cps_tensor *output, cps_tensor *input) {
    if (!input->needs_grad) {
        return CPS_OK;
    }
    if (!input->leaf && own_of(input)->gradient == NULL) {
        gradient *shared = own_of(output)->gradient;
        shared->holders++;
        gradient_hold(own_of(input), shared);
        input->grad_fresh = false;
        return CPS_OK;
    }
    return gradient_add(tape, input, output->grad);
}

/* ---- backward
 * --------------------------------------------------------------------------------------------------------------
 */
void cps_tape_seed(cps_tape *tape, cps_tensor *tensor, const cps_real *grad) {
    if (tape->status != CPS_OK || tensor == NULL) {
        return;
    }
    seed *added = describe(tape, sizeof *added);
    if (added != NULL) {
        *added = (seed){.tensor = tensor, .values = grad};
        *tape->seed_end = added;
        tape->seed_end = &added->next;
    }
}

/* The first seed of a result is borrowed as its gradient; further ones are added. */
static cps_status plant(cps_tape *tape, const seed *from) {
    cps_tensor *tensor = from->tensor;
    if (!tensor->needs_grad) {
        return CPS_OK;
    }
    if (tensor->leaf || own_of(tensor)->gradient != NULL) {
        return gradient_add(tape, tensor, from->values);
    }
    gradient *borrowed = describe(tape, sizeof *borrowed);
    if (borrowed == NULL) {
        return tape->status;
    }
    /* The caller's memory, only read: one holder more than there are tensors. */
    borrowed->data = (cps_real *)(uintptr_t)from->values;
    borrowed->holders = 2;
    gradient_hold(own_of(tensor), borrowed);
    return CPS_OK;
}

static cps_status plant_loss(cps_tape *tape, cps_tensor *loss, double value) {
    if (cps_count_of(loss) != 1) {
        return cps_fail(CPS_ERR_USAGE,
                        "backward starts at a scalar, this loss has the shape %s: sum it first",
                        cps_show_shape(loss).text);
    }
    const cps_real one = (cps_real)value;
    return loss->needs_grad ? gradient_add(tape, loss, &one) : CPS_OK;
}

/* Counts a node's leaves down; a leaf whose last node has run is done. */
static void leaves_down(cps_tape *tape, const cps_node *node) {
    for (int32_t i = 0; i < node->input_count; i++) {
        cps_tensor *input = node->inputs[i];
        if (input == NULL || !input->needs_grad || !input->leaf || input->id < 0 ||
            --tape->leaf_uses[input->id] > 0 || tape->mode == CPS_TAPE_PLAN) {
            continue;
        }
        if (input->grad_fresh) { /* nothing reached it */
            input->grad_fresh = false;
            cps_fill_zero(cps_count_of(input), input->grad);
        }
        if (tape->hooks.on_leaf_done != NULL) {
            tape->hooks.on_leaf_done(tape->hooks.context, input->id);
        }
    }
}

/* The flag CPS_PASS_i of input i; inputs beyond 1 are never passed. */
static bool passes(const tape_node *entry, int32_t input) {
    return input < 2 && (entry->flags & (1u << input)) != 0;
}

/* Outputs without a gradient get zeros; inputs get their buffers. */
static cps_status node_prepare(cps_tape *tape, const tape_node *entry) {
    const cps_node *node = &entry->node;
    for (int32_t o = 0; o < node->output_count; o++) {
        if (!has_gradient(node->outputs[o])) {
            CPS_TRY(gradient_prepare(tape, node->outputs[o]));
            node->outputs[o]->grad_fresh = false;
            if (tape->mode != CPS_TAPE_PLAN) {
                cps_fill_zero(cps_count_of(node->outputs[o]), node->outputs[o]->grad);
            }
        }
    }
    for (int32_t i = 0; i < node->input_count; i++) {
        cps_tensor *input = node->inputs[i];
        if (input != NULL && input->needs_grad && !input->leaf && !passes(entry, i)) {
            CPS_TRY(gradient_prepare(tape, input));
        }
    }
    return CPS_OK;
}

static cps_status node_backward(cps_tape *tape, const tape_node *entry) {
    const cps_node *node = &entry->node;
    CPS_TRY(node_prepare(tape, entry));
    const size_t mark = cps_tape_mark(tape);
    if (tape->mode == CPS_TAPE_PLAN) {
        take(tape, node->scratch_bytes);
        for (int32_t i = 0; i < node->input_count; i++) {
            if (node->inputs[i] != NULL && !node->inputs[i]->leaf) {
                node->inputs[i]->grad_fresh = false;
            }
        }
    } else if (node->backward != NULL) {
        const cps_status status = node->backward(tape, node);
        CPS_TRY(status != CPS_OK ? cps_fail_context(status, "backward of %s", node->name)
                                 : tape->status);
    }
    cps_tape_release(tape, mark);
    for (int32_t i = 0; i < node->input_count; i++) {
        if (node->inputs[i] != NULL && passes(entry, i)) {
            CPS_TRY(gradient_pass(tape, node->outputs[0], node->inputs[i]));
        }
    }
    return CPS_OK;
}

static cps_status node_run(cps_tape *tape, const tape_node *entry) {
    const cps_node *node = &entry->node;
    bool arrived = false;
    for (int32_t o = 0; o < node->output_count; o++) {
        arrived = arrived || has_gradient(node->outputs[o]);
    }
    if (arrived) {
        CPS_TRY(node_backward(tape, entry));
    }
    for (int32_t o = 0; o < node->output_count; o++) {
        gradient_drop(tape, own_of(node->outputs[o]));
    }
    leaves_down(tape, node);
    if (tape->hooks.on_node != NULL && tape->mode != CPS_TAPE_PLAN) {
        tape->hooks.on_node(tape->hooks.context);
    }
    return CPS_OK;
}

static cps_status replay(cps_tape *tape, cps_tensor *loss, double value) {
    for (const seed *from = tape->seeds; from != NULL; from = from->next) {
        CPS_TRY(plant(tape, from));
    }
    if (loss != NULL) {
        CPS_TRY(plant_loss(tape, loss, value));
    }
    for (const tape_node *entry = tape->last_node; entry != NULL; entry = entry->previous) {
        CPS_TRY(node_run(tape, entry));
    }
    return CPS_OK;
}

cps_status cps_backward(cps_tape *tape, cps_tensor *loss, double seed_value) {
    CPS_TRY(tape->status);
    if (tape->mode == CPS_TAPE_PLAIN || tape->replayed) {
        return cps_fail(CPS_ERR_INTERNAL, "cps_backward: %s",
                        tape->replayed
                            ? "this recording has been replayed already; reset the tape first"
                            : "the tape is in PLAIN mode and records nothing");
    }
    tape->replayed = true;
    const cps_status status = replay(tape, loss, seed_value);
    if (status != CPS_OK) {
        cps_tape_set_failed(tape, status, false);
    }
    return status;
}
