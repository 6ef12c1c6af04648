/* The tape: failures that stick, modes, memory, leaves and hooks, layouts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "tensor/gemm.h"
#include "tensor/ops.h"

typedef struct fixture {
    cps_arena *arena;
    cps_tape *tape;
} fixture;

static fixture begin(cps_tape_mode mode, size_t bytes, bool growable) {
    fixture f;
    const cps_status status = mode == CPS_TAPE_PLAN
                                  ? cps_arena_create_counting("test", &f.arena)
                                  : cps_arena_create("test", bytes, growable, &f.arena);
    assert_int_equal(status, CPS_OK);
    assert_int_equal(cps_tape_create(f.arena, mode, NULL, &f.tape), CPS_OK);
    return f;
}

static void end(fixture *f) {
    cps_tape_destroy(f->tape);
    cps_arena_destroy(f->arena);
}

static cps_tensor *leaf(cps_tape *tape, int32_t rank, const int64_t *shape, cps_real *data,
                        cps_real *grad, int32_t id) {
    cps_tensor *made = cps_tape_leaf(tape, CPS_REAL, rank, shape, data, grad, id);
    assert_non_null(made);
    made->grad_fresh = grad != NULL;
    return made;
}

static void test_failure_sticks(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_RECORD, 1 << 16, true);
    cps_real values[6] = {0};
    cps_tensor *x = leaf(f.tape, 2, (const int64_t[]){2, 3}, values, NULL, -1);
    assert_null(cps_matmul(f.tape, x, x, false, false, 1.0));
    assert_int_equal(cps_tape_status(f.tape), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "[2, 3]"));
    assert_false(cps_tape_computes(f.tape));
    assert_null(cps_add(f.tape, x, x)); /* right, but too late */
    assert_non_null(strstr(cps_fail_message(), "matmul"));
    assert_int_equal(cps_backward(f.tape, x, 1.0), CPS_ERR_USAGE);
    cps_tape_reset(f.tape);
    assert_int_equal(cps_tape_status(f.tape), CPS_OK);
    x = leaf(f.tape, 2, (const int64_t[]){2, 3}, values, NULL, -1);
    assert_non_null(cps_add(f.tape, x, x));
    end(&f);
}

static void test_null_operand(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_PLAIN, 1 << 16, true);
    assert_null(cps_softmax(f.tape, NULL));
    assert_int_equal(cps_tape_status(f.tape), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "softmax: operand 1 is NULL"));
    end(&f);
}

static void test_full_arena(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_RECORD, 4096, false);
    assert_null(cps_tape_tensor(f.tape, CPS_REAL, 1, (const int64_t[]){4096}));
    assert_int_equal(cps_tape_status(f.tape), CPS_ERR_UNAVAILABLE);
    end(&f);
}

static void test_hostile_shapes(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{-1, 2}, {INT64_MAX, 2}, {(int64_t)1 << 62, 1}};
    for (size_t i = 0; i < 3; i++) {
        fixture f = begin(CPS_TAPE_PLAN, 0, false);
        assert_null(cps_tape_tensor(f.tape, CPS_F64, 2, shapes[i]));
        assert_int_equal(cps_tape_status(f.tape), CPS_ERR_USAGE);
        end(&f);
    }
    fixture f = begin(CPS_TAPE_PLAN, 0, false);
    assert_null(cps_tape_tensor(f.tape, CPS_REAL, 5, (const int64_t[]){1, 1, 1, 1}));
    end(&f);
}

/* Wrong operands: each fails with its name. */
static void test_wrong_operands(void **state) {
    (void)state;
    static cps_real values[64];
    static const int32_t falling[] = {0, 3, 2}, index[] = {0, 5}, classes[] = {0, 9};
    for (int which = 0; which < 12; which++) {
        fixture f = begin(CPS_TAPE_RECORD, 1 << 16, true);
        cps_tape *t = f.tape;
        cps_tensor *x = leaf(t, 2, (const int64_t[]){2, 6}, values, NULL, -1);
        cps_tensor *w = leaf(t, 2, (const int64_t[]){3, 5}, values, NULL, -1);
        cps_tensor *v = leaf(t, 1, (const int64_t[]){5}, values, NULL, -1);
        cps_tensor *ids = cps_constant(t, CPS_I32, 1, (const int64_t[]){2}, classes);
        cps_tensor *parts[] = {x, w};
        const char *name[] = {"linear",        "attention",  "attention",    "layer_norm",
                              "add",           "take_rows",  "slice_rows",   "concat_rows",
                              "cross_entropy", "scale_rows", "embed_tokens", "softmax_contrastive"};
        cps_tensor *made = NULL;
        switch (which) {
        case 0:
            made = cps_linear(t, x, w, NULL, CPS_ACT_NONE);
            break;
        case 1:
            made = cps_attention(t, x, 1, 2, falling, false);
            break;
        case 2:
            made = cps_attention(t, x, 4, 1, (const int32_t[]){0, 2}, false);
            break;
        case 3:
            made = cps_layer_norm(t, x, v, v, 1e-5);
            break;
        case 4:
            made = cps_add(t, x, v);
            break;
        case 5:
            made = cps_take_rows(t, x, 2, index);
            break;
        case 6:
            made = cps_slice_rows(t, x, 1, 2);
            break;
        case 7:
            made = cps_concat_rows(t, 2, parts);
            break;
        case 8:
            made = cps_cross_entropy(t, x, ids, NULL);
            break;
        case 9:
            made = cps_scale_rows(t, x, v);
            break;
        case 10: /* id 9 of a table of 3 rows */
            made = cps_embed_tokens(t, ids, 1, (const int32_t[]){0, 2}, w, w);
            break;
        default:
            made = cps_softmax_contrastive(t, x, w, v, NULL);
        }
        assert_null(made);
        assert_true(strncmp(cps_fail_message(), name[which], strlen(name[which])) == 0);
        end(&f);
    }
}

/* ---- memory
 * ------------------------------------------------------------------------------------------------------------------
 */
static void test_release_in_plain(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_PLAIN, 1 << 16, false);
    static cps_real values[1000];
    cps_tensor *x = leaf(f.tape, 1, (const int64_t[]){1000}, values, NULL, -1);
    cps_tensor *kept = cps_affine(f.tape, x, 1.0, 2.0);
    for (int i = 0; i < 200; i++) { /* would need 100 times the arena */
        const size_t mark = cps_tape_mark(f.tape);
        cps_tensor *y = cps_affine(f.tape, kept, 0.5, 1.0);
        assert_non_null(y);
        memcpy(kept->data, y->data, sizeof values);
        cps_tape_release(f.tape, mark);
    }
    assert_true(((const cps_real *)kept->data)[5] == 2);
    end(&f);
}

static void test_reset_keeps_what_was_before(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_RECORD, 1 << 16, false);
    int *before = cps_arena_alloc(f.arena, sizeof *before);
    *before = 42;
    const size_t used = cps_arena_used(f.arena);
    for (int i = 0; i < 3; i++) {
        assert_non_null(cps_tape_tensor(f.tape, CPS_REAL, 1, (const int64_t[]){5000}));
        cps_tape_reset(f.tape);
        assert_int_equal(cps_arena_used(f.arena), used);
    }
    assert_int_equal(*before, 42);
    end(&f);
}

/* A chain: gradients of used-up results are taken again, so twenty links need no more gradient
 * memory than two. */
static size_t chain_bytes(int links, bool backward) {
    fixture f = begin(CPS_TAPE_PLAN, 0, false);
    cps_tensor *x = leaf(f.tape, 1, (const int64_t[]){4096}, NULL, NULL, 0);
    x->needs_grad = true;
    for (int i = 0; i < links; i++) {
        x = cps_unary(f.tape, x, CPS_GELU);
    }
    x = cps_sum(f.tape, x);
    if (backward) {
        assert_int_equal(cps_backward(f.tape, x, 1.0), CPS_OK);
    }
    const size_t bytes = cps_arena_high_water(f.arena);
    end(&f);
    return bytes;
}

static void test_gradients_are_reused(void **state) {
    (void)state;
    const size_t two = chain_bytes(2, true) - chain_bytes(2, false);
    const size_t twenty = chain_bytes(20, true) - chain_bytes(20, false);
    assert_int_equal(two, twenty);
}

/* Residual sums need no copies: the peak of a block is two buffers, that of the sum and that of the
 * branch. */
static void test_residual_shares(void **state) {
    (void)state;
    const size_t size = 4096 * sizeof(cps_real);
    size_t bytes[2];
    for (int backward = 0; backward <= 1; backward++) {
        fixture f = begin(CPS_TAPE_PLAN, 0, false);
        cps_tensor *x = leaf(f.tape, 1, (const int64_t[]){4096}, NULL, NULL, 0);
        x->needs_grad = true;
        x = cps_affine(f.tape, x, 2.0, 0.0);
        for (int i = 0; i < 5; i++) {
            x = cps_add(f.tape, x, cps_unary(f.tape, x, CPS_GELU));
        }
        cps_tensor *loss = cps_sum(f.tape, x);
        if (backward) {
            assert_int_equal(cps_backward(f.tape, loss, 1.0), CPS_OK);
        }
        bytes[backward] = cps_arena_high_water(f.arena);
        end(&f);
    }
    assert_true(bytes[1] - bytes[0] <= 2 * size + 64);
}

/* ---- leaves and hooks
 * --------------------------------------------------------------------------------------------------------
 */
typedef struct seen {
    int nodes, done[8], count;
} seen;

static void on_node(void *context) {
    ((seen *)context)->nodes++;
}
static void on_leaf_done(void *context, int32_t id) {
    seen *s = context;
    assert_true(s->count < 8);
    s->done[s->count++] = id;
}

static void test_hooks(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_RECORD, 1 << 16, true);
    seen s = {0};
    const cps_tape_hooks hooks = {.context = &s, .on_node = on_node, .on_leaf_done = on_leaf_done};
    cps_tape_set_hooks(f.tape, &hooks);
    cps_real a = 3, b = 5, c = 7, d_a = 1, d_b = 99, d_c = 99;
    cps_tensor *x = leaf(f.tape, 0, NULL, &a, &d_a, 4);
    x->grad_fresh = false; /* adds to the 1 that is there */
    cps_tensor *y = leaf(f.tape, 0, NULL, &b, &d_b, 2);
    cps_tensor *z = leaf(f.tape, 0, NULL, &c, &d_c, 6);
    assert_ptr_equal(leaf(f.tape, 0, NULL, &b, &d_b, 2), y); /* one parameter, one leaf */
    cps_tensor *early = cps_mul(f.tape, x, y);               /* 15 */
    cps_mul(f.tape, z, z);                                   /* reaches no loss */
    cps_tensor *late = cps_mul(f.tape, early, y);            /* 75: d_x = 25, d_y = 30 */
    assert_int_equal(cps_backward(f.tape, late, 2.0), CPS_OK);
    assert_true(d_a == 51 && d_b == 60 && d_c == 0);
    assert_int_equal(s.nodes, 3);
    assert_int_equal(s.count, 3);
    assert_int_equal(s.done[0], 6);                /* its only node comes second from the end */
    assert_true(s.done[1] == 4 || s.done[1] == 2); /* both with the first node */
    assert_int_equal(s.done[1] + s.done[2], 6);
    assert_int_equal(cps_backward(f.tape, late, 1.0), CPS_ERR_INTERNAL);
    end(&f);
}

static void test_plain_has_no_backward(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_PLAIN, 1 << 16, true);
    cps_real a = 3, d = 0;
    cps_tensor *y = cps_sum(f.tape, leaf(f.tape, 0, NULL, &a, &d, 0));
    assert_false(y->needs_grad);
    assert_int_equal(cps_backward(f.tape, y, 1.0), CPS_ERR_INTERNAL);
    end(&f);
}

static void test_loss_must_be_scalar(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_RECORD, 1 << 16, true);
    cps_real a[3] = {0}, d[3];
    cps_tensor *y = cps_affine(f.tape, leaf(f.tape, 1, (const int64_t[]){3}, a, d, 0), 1.0, 0.0);
    assert_int_equal(cps_backward(f.tape, y, 1.0), CPS_ERR_USAGE);
    assert_non_null(strstr(cps_fail_message(), "[3]"));
    end(&f);
}

/* ---- an operation of one's own
 * -------------------------------------------------------------------------------------------------
 */
/* Two outputs, x^2 and x^3, of which only one is used. */
static cps_status powers_backward(cps_tape *tape, const cps_node *node) {
    const double x = (double)((const cps_real *)node->inputs[0]->data)[0];
    cps_real *room = cps_tape_save(tape, 64); /* goes by itself */
    assert_non_null(room);
    bool fresh;
    cps_real *target = cps_grad_target(tape, node->inputs[0], &fresh);
    assert_true(cps_node_grad(node->outputs[1])[0] == 0);
    const double d = 2.0 * x * (double)cps_node_grad(node->outputs[0])[0] +
                     3.0 * x * x * (double)cps_node_grad(node->outputs[1])[0];
    target[0] = (cps_real)((fresh ? 0.0 : (double)target[0]) + d);
    return CPS_OK;
}

static size_t powers(cps_tape_mode mode, cps_real *d_x) {
    fixture f = begin(mode, 1 << 16, true);
    cps_real x_value = 3;
    cps_tensor *x = leaf(f.tape, 0, NULL, mode == CPS_TAPE_PLAN ? NULL : &x_value, d_x, 0);
    cps_tensor *square = cps_tape_tensor(f.tape, CPS_REAL, 0, NULL),
               *cube = cps_tape_tensor(f.tape, CPS_REAL, 0, NULL);
    const cps_node node = {.backward = powers_backward,
                           .name = "powers",
                           .output_count = 2,
                           .input_count = 1,
                           .outputs = {square, cube},
                           .inputs = {x},
                           .scratch_bytes = 64};
    assert_true(cps_tape_record(f.tape, &node));
    if (cps_tape_computes(f.tape)) {
        *(cps_real *)square->data = 9;
        *(cps_real *)cube->data = 27;
    }
    assert_int_equal(cps_backward(f.tape, cps_affine(f.tape, square, 10.0, 0.0), 1.0), CPS_OK);
    const size_t bytes = cps_arena_high_water(f.arena);
    end(&f);
    return bytes;
}

static void test_own_operation(void **state) {
    (void)state;
    cps_real d_x = 0;
    const size_t bytes = powers(CPS_TAPE_RECORD, &d_x);
    assert_true(d_x == 60);
    assert_int_equal(powers(CPS_TAPE_PLAN, &d_x), bytes);
}

static cps_status failing_backward(cps_tape *tape, const cps_node *node) {
    (void)tape;
    (void)node;
    return cps_fail(CPS_ERR_DATA, "no");
}

static void test_failing_backward(void **state) {
    (void)state;
    fixture f = begin(CPS_TAPE_RECORD, 1 << 16, true);
    cps_real a = 3, d;
    cps_tensor *x = leaf(f.tape, 0, NULL, &a, &d, 0),
               *y = cps_tape_tensor(f.tape, CPS_REAL, 0, NULL);
    const cps_node node = {.backward = failing_backward,
                           .name = "mine",
                           .output_count = 1,
                           .input_count = 1,
                           .outputs = {y},
                           .inputs = {x}};
    assert_true(cps_tape_record(f.tape, &node));
    assert_int_equal(cps_backward(f.tape, y, 1.0), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(), "backward of mine: no");
    end(&f);
}

/* ---- layouts
 * -------------------------------------------------------------------------------------------------------------------
 */
static void test_layouts(void **state) {
    (void)state;
    static const int64_t part_offset[] = {0, 2, 4};
    const cps_layout layout = {.part_count = 2, .part_offset = part_offset, .last_part = 2};
    cps_real values[12] = {0}, grads[12], w[3] = {0}, d_w[3];
    for (int which = 0; which < 4; which++) {
        fixture f = begin(CPS_TAPE_RECORD, 1 << 16, true);
        cps_tensor *x = leaf(f.tape, 2, (const int64_t[]){4, 3}, values, grads, 0);
        cps_tensor *v = leaf(f.tape, 1, (const int64_t[]){3}, w, which == 2 ? d_w : NULL, 1);
        x->layout = &layout;
        cps_tensor *kept = cps_normalize(f.tape, x, 1e-6);
        assert_ptr_equal(kept->layout, &layout);
        cps_tensor *made = which == 0   ? cps_sum(f.tape, kept)
                           : which == 1 ? cps_slice_rows(f.tape, kept, 0, 2)
                                        : cps_mul(f.tape, kept, v);
        if (which == 3) { /* a constant is no harm */
            assert_non_null(made);
        } else {
            assert_null(made);
            assert_non_null(strstr(cps_fail_message(), "cps_gather"));
        }
        end(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failure_sticks),
        cmocka_unit_test(test_null_operand),
        cmocka_unit_test(test_full_arena),
        cmocka_unit_test(test_hostile_shapes),
        cmocka_unit_test(test_wrong_operands),
        cmocka_unit_test(test_release_in_plain),
        cmocka_unit_test(test_reset_keeps_what_was_before),
        cmocka_unit_test(test_gradients_are_reused),
        cmocka_unit_test(test_residual_shares),
        cmocka_unit_test(test_hooks),
        cmocka_unit_test(test_plain_has_no_backward),
        cmocka_unit_test(test_loss_must_be_scalar),
        cmocka_unit_test(test_own_operation),
        cmocka_unit_test(test_failing_backward),
        cmocka_unit_test(test_layouts),
    };
    cps_gemm_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
