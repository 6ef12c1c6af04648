/* The tape: how gradients come about. Operations (tensor/ops.inc) are called on a tape; each
 * computes its result at once and records what its backward pass needs. cps_backward replays in
 * reverse. Three modes: RECORD   compute and record       PLAIN  compute only (no gradient) PLAN
 * count shapes and bytes in a counting arena: data is NULL, nothing is computed, the same code runs
 * Errors are sticky: an operation that fails (bad shape, arena full) puts its message on record,
 * marks the tape as failed and returns NULL; operations on a failed tape or with a NULL operand
 * return NULL at once. So callers write straight code and ask cps_tape_status at the end. A tape
 * and its tensors live in an arena; cps_tape_reset frees them all. One thread drives a tape
 * (operations use the pool inside). */
#ifndef CPS_TENSOR_TAPE_H
#define CPS_TENSOR_TAPE_H

#include "base/arena.h"
#include "base/status.h"

typedef struct cps_tape cps_tape;
typedef enum cps_tape_mode { CPS_TAPE_RECORD, CPS_TAPE_PLAIN, CPS_TAPE_PLAN } cps_tape_mode;

/* `arena` is borrowed until destroy. `host` may be NULL; it is what plugins find through their tape
 * (plugin/host). The host pointer is the first member of cps_tape: header inlines of
 * copse_objective.h rely on it. */
cps_status cps_tape_create(cps_arena *arena, cps_tape_mode mode, const void *host,
                           cps_tape **tape_out) CPS_MUST_CHECK;
void cps_tape_destroy(cps_tape *tape);
/* Forgets all tensors and nodes, frees their memory in the arena down to where the tape began,
 * clears the failure. A tape begins at its first allocation after creation or reset (the tape
 * object itself is not in the arena), so that several tapes can stack in one arena and go in
 * reverse order: the tapes of a step that are kept, a plain tape inside a recording one. */
void cps_tape_reset(cps_tape *tape);
cps_status cps_tape_status(const cps_tape *tape);
/* The failure came out of an agreement of all ranks inside a collective operation (gather, ...):
 * all tapes have failed, and the caller must not agree on it a second time. */
bool cps_tape_failure_agreed(const cps_tape *tape);
cps_tape_mode cps_tape_get_mode(const cps_tape *tape);
bool cps_tape_computes(const cps_tape *tape); /* false in PLAN mode and after a failure */

/* A leaf around the caller's memory, which outlives the tape's use of it. grad non-NULL (or
 * needs_grad set by the caller in the result, in PLAN mode) asks for a gradient there: it is added
 * to (or overwritten while grad_fresh). id: see on_leaf_done. */
cps_tensor *cps_tape_leaf(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape,
                          void *data, cps_real *grad, int32_t id);

/* Leaves may also be tensors that the caller made (parameters of a model): leaf true, id set,
 * needs_grad says whether a gradient is asked; `grad` and `grad_fresh` may be set between recording
 * and backward. True when some node of the recording (or plan) adds to the gradient of leaf `id`.
 */
bool cps_tape_reaches_leaf(const cps_tape *tape, int32_t id);

/* For operations. A new result: uninitialised, needs_grad false. */
cps_tensor *cps_tape_tensor(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape);
/* Bytes that live until the tape's reset (saved for backward). NULL in PLAN mode: test
 * cps_tape_computes first. */
void *cps_tape_save(cps_tape *tape, size_t bytes);
/* Bytes that the operation gives back at its end: mark before, release after. */
size_t cps_tape_mark(cps_tape *tape);
void cps_tape_release(cps_tape *tape, size_t mark);

typedef struct cps_node cps_node;
/* Backward of one operation: reads cps_node_grad(output), adds to cps_grad_target(input) for inputs
 * that need it. */
typedef cps_status (*cps_backward_fn)(cps_tape *tape, const cps_node *node);
enum { CPS_NODE_MAX = 8 };
struct cps_node {
    cps_backward_fn backward;
    const char *name;
    int32_t output_count, input_count;
    cps_tensor *outputs[CPS_NODE_MAX];
    cps_tensor *inputs[CPS_NODE_MAX];
    void *saved;          /* from cps_tape_save */
    size_t scratch_bytes; /* what `backward` takes from the arena at its peak, for plans */
};
/* Records `node` (copied) if the tape records or plans and some input needs a gradient; marks the
 * outputs accordingly and returns true then. When false, `saved` need not be filled. Call before
 * computing, so that work for backward can be skipped. */
bool cps_tape_record(cps_tape *tape, const cps_node *node);
/* Whether cps_tape_record would say true for these inputs (NULL entries allowed): asked before
 * saving what only backward needs. */
bool cps_tape_will_record(const cps_tape *tape, int32_t count, cps_tensor *const *inputs);
/* A tensor over memory that lives as long as the tape's recording (views of other tensors): no
 * bytes of its own. */
cps_tensor *cps_tape_view(cps_tape *tape, cps_dtype dtype, int32_t rank, const int64_t *shape,
                          void *data);
/* Gradient that arrived at an output (all zero if none did: then the node is skipped and this is
 * not called). */
const cps_real *cps_node_grad(const cps_tensor *output);
/* Where to put an input's gradient: NULL if none is asked; *fresh_out true: overwrite all of it,
 * false: add to it. Call once a node and input; the caller must then write all of it. */
cps_real *cps_grad_target(cps_tape *tape, cps_tensor *input, bool *fresh_out);

/* Fails the tape (sticky) with a message; returns NULL for convenience of operations. */
cps_tensor *cps_tape_fail(cps_tape *tape, cps_status code, const char *format, ...)
    CPS_PRINTF(3, 4);

/* Starts at scalar `loss` with gradient `seed` (1 usually) and any number of extra seeds given
 * before by cps_tape_seed, runs all nodes in reverse. Gradients of non-leaf tensors are given back
 * to the arena's free list as soon as they are used up. loss may be NULL when seeds were given.
 * Running it twice on one recording is an error. */
cps_status cps_backward(cps_tape *tape, cps_tensor *loss, double seed) CPS_MUST_CHECK;
/* Adds `grad` (shape of `tensor`) to what backward starts from: leaf gradients of a step's loss at
 * a grain's outputs. Borrowed until cps_backward returns. grad NULL in PLAN mode. */
void cps_tape_seed(cps_tape *tape, cps_tensor *tensor, const cps_real *grad);

/* Called during cps_backward: on_node after every node (the step polls MPI there); on_leaf_done
 * when the last node that adds to leaf `id` (>= 0) has run, so that its gradient can be sent.
 * Either may be NULL. */
typedef struct cps_tape_hooks {
    void *context;
    void (*on_node)(void *context);
    void (*on_leaf_done)(void *context, int32_t leaf_id);
} cps_tape_hooks;
void cps_tape_set_hooks(cps_tape *tape, const cps_tape_hooks *hooks);

/* What distributed operations (gather, contrastive, batch sums) need; set by the step before
 * `loss`. comm NULL: one rank. */
struct cps_comm;
void cps_tape_set_comm(cps_tape *tape, struct cps_comm *comm);
struct cps_comm *cps_tape_comm(const cps_tape *tape);

/* Wall seconds spent inside matrix products (gemm and attention) by this process since start, and
 * their floating-point operations; for reports and `make bench`. */
void cps_product_time(double *seconds_out, double *flop_out);

#endif
