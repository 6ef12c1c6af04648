/* sclip in double. The loss is called on features made up here and compared with the formulas of
 * sclip.md written out once more: plans by Sinkhorn's scaling form in long double, gradients by
 * central differences with plan and targets held where they are constants. Then through the engine:
 * the whole gradient, compositions, other grains, matching, warnings. */
#include <float.h>

#include "tests/ranks/engine.h"

#define SGD "{\"kind\":\"sgd\",\"lr\":0.001,\"momentum\":0}"

enum { MOST = 8, WIDTH = 6, VALUES = 4 * MOST * WIDTH };

/* ---- options ---- */

static const char *const plans[] = {"hard-image", "soft-image", "ot-image",
                                    "hard-text",  "soft-text",  "ot-text"};

typedef struct setting {
    int plan; /* of plans */
    bool constant_plan, no_negatives, no_captions, no_keywords, softmax, strict;
    int iterations; /* 0: 10 */
    int ranks;      /* published; 0: 1 */
} setting;

/* A trial of the objective with these options; the engine_job is for engine_open. */
static void open_setting(const setting *s, trial *t) {
    char text[640];
    snprintf(text, sizeof text,
             "[{\"name\":\"sclip\",\"options\":{\"unlabelled\":\"extra\",\"keywords\":[\"oak\","
             "\"ash\"],\"max_scale\":10000,\"plan\":\"%s\",\"plan_grad\":%s,\"query_negatives\":%s,"
             "\"caption_term\":%s,\"keyword_term\":%s,\"keyword_target\":\"%s\","
             "\"strict_target\":%s,\"sinkhorn_iterations\":%d,\"published_ranks\":%d}}]",
             plans[s->plan], s->constant_plan ? "false" : "true",
             s->no_negatives ? "false" : "true", s->no_captions ? "false" : "true",
             s->no_keywords ? "false" : "true", s->softmax ? "softmax" : "linear",
             s->strict ? "true" : "false", s->iterations == 0 ? 10 : s->iterations,
             s->ranks == 0 ? 1 : s->ranks);
    const engine_job job = {.objectives = text, .optimizer = SGD, .steps = 1};
    ENGINE_MUST(engine_open(&job, t));
}

/* ---- a batch ---- */

enum { IMAGE, TEXT, QUERY, KEYWORD, SIDES };

typedef struct made {
    int count[SIDES]; /* rows: N, N, M, K */
    double value[SIDES][MOST * WIDTH];
    int32_t mask[MOST * MOST]; /* [N, K] */
    double log_scale;
} made;

/* Unit rows around a common direction, which makes most similarities positive as CLIP's are;
 * spread 1: every direction alike. */
static made make_batch(int n, int m, int k, double scale, double spread, uint64_t seed) {
    made b = {.count = {n, n, m, k}, .log_scale = log(scale)};
    for (int side = 0; side < SIDES; side++) {
        for (int row = 0; row < b.count[side]; row++) {
            const cps_draw_key key = {
                .seed = seed, .position = (uint64_t)row, .view = (uint32_t)side};
            double *x = b.value[side] + row * WIDTH, norm = 0.0;
            for (int c = 0; c < WIDTH; c++) {
                x[c] = spread * cps_draw_normal(&key, (uint64_t)c) + (1.0 - spread);
                norm += x[c] * x[c];
            }
            for (int c = 0; c < WIDTH; c++) {
                x[c] /= sqrt(norm);
            }
        }
    }
    for (int i = 0; i < n; i++) { /* 0, 1, 2 ... candidates */
        for (int j = 0; j < k; j++) {
            b.mask[i * k + j] = (i + j) % (i + 1) == 0 && i % 4 != 3;
        }
    }
    return b;
}

/* ---- the plugin's loss ---- */

typedef struct answer {
    double terms[3]; /* contrastive, caption, keyword; 0 where there is none */
    double guarded, share;
    double d_value[SIDES][MOST * WIDTH], d_log_scale;
} answer;

static const char *const slot_names[SIDES] = {"image", "text", "query", "keyword"};

static int slot_of(const trial *t, const char *name) {
    for (int32_t i = 0; i < t->plan->slot_count; i++) {
        if (strcmp(t->plan->slots[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* Puts a side's rows into its slot; the slot's gradient lands in `grad`. */
static void fill_slot(const trial *t, cps_global *global, cps_tape *tape, const made *b, int side,
                      double *grad) {
    const int slot = slot_of(t, slot_names[side]);
    const int64_t shape[2] = {b->count[side], WIDTH};
    if (slot >= 0) {
        cps_tensor *rows = cps_tape_leaf(tape, CPS_REAL, 2, shape,
                                         (void *)(uintptr_t)b->value[side], grad, 1000 + side);
        rows->grad_fresh = false;
        global->slots[slot] = rows;
    }
}

static void collect(const cps_global *global, answer *a) {
    static const char *const names[] = {"contrastive", "caption", "keyword"};
    for (int32_t i = 0; i < global->term_count; i++) {
        for (int k = 0; k < 3; k++) {
            if (strcmp(global->term_names[i], names[k]) == 0) {
                a->terms[k] = *(const double *)global->terms[i]->data;
            }
        }
    }
    for (int32_t i = 0; i < global->report_count; i++) {
        const bool guarded = strcmp(global->report_names[i], "guarded_targets") == 0;
        *(guarded ? &a->guarded : &a->share) = global->report_values[i];
    }
}

/* Terms, and the gradient of their weighted sum. */
static answer solve(trial *t, const made *b, const double weights[3]) {
    static answer a;
    static cps_global global;
    cps_arena *arena = NULL;
    cps_tape *tape = NULL;
    const cps_instance *instance = &t->plan->instances[0];
    const int mask = slot_of(t, "keyword_mask");
    a = (answer){0};
    *(double *)engine_param(t, "logit_scale")->tensor.data = b->log_scale;
    ENGINE_MUST(cps_arena_create("loss", 1 << 20, true, &arena));
    ENGINE_MUST(cps_tape_create(arena, CPS_TAPE_RECORD, cps_host_table(), &tape));
    memset(&global, 0, sizeof global);
    global.host = cps_host_table();
    global.plan = t->plan;
    global.tape = tape;
    for (int side = 0; side < SIDES; side++) {
        fill_slot(t, &global, tape, b, side, a.d_value[side]);
    }
    if (mask >= 0) {
        const int64_t shape[2] = {b->count[IMAGE], b->count[KEYWORD]};
        global.slots[mask] =
            cps_tape_leaf(tape, CPS_I32, 2, shape, (void *)(uintptr_t)b->mask, NULL, -1);
    }
    ENGINE_MUST(instance->objective->loss(instance->self, &global, tape));
    collect(&global, &a);
    for (int32_t i = 0; i < global.term_count; i++) {
        const int k = strcmp(global.term_names[i], "contrastive") == 0 ? 0
                      : strcmp(global.term_names[i], "caption") == 0   ? 1
                                                                       : 2;
        cps_tape_seed(tape, global.terms[i], &weights[k]);
    }
    ENGINE_MUST(cps_backward(tape, NULL, 0.0));
    a.d_log_scale = global.params[0]->grad == NULL ? 0.0 : (double)*global.params[0]->grad;
    cps_tape_destroy(tape);
    cps_arena_destroy(arena);
    return a;
}

/* ---- the same once more ---- */

static double product(const made *b, int left, int i, int right, int j) {
    double sum = 0.0;
    for (int c = 0; c < WIDTH; c++) {
        sum += b->value[left][i * WIDTH + c] * b->value[right][j * WIDTH + c];
    }
    return sum;
}

static double log_sum(const double *z, int count) {
    double top = z[0], sum = 0.0;
    for (int i = 1; i < count; i++) {
        top = fmax(top, z[i]);
    }
    for (int i = 0; i < count; i++) {
        sum += exp(z[i] - top);
    }
    return top + log(sum);
}

/* Sinkhorn's scalings of the kernel exp(-s cost), columns first. */
static void transport(const made *b, int support, int iterations, double *plan) {
    const int m = b->count[QUERY], n = b->count[IMAGE];
    const long double s = expl((long double)b->log_scale);
    long double kernel[MOST][MOST], u[MOST], v[MOST];
    for (int q = 0; q < m; q++) {
        u[q] = 1.0L / m;
        for (int i = 0; i < n; i++) {
            kernel[q][i] = expl(s * ((long double)product(b, QUERY, q, support, i) - 1.0L));
        }
    }
    for (int round = 0; round < iterations; round++) {
        for (int i = 0; i < n; i++) {
            long double sum = 0.0L;
            for (int q = 0; q < m; q++) {
                sum += kernel[q][i] * u[q];
            }
            v[i] = 1.0L / (n * sum);
        }
        for (int q = 0; q < m; q++) {
            long double sum = 0.0L;
            for (int i = 0; i < n; i++) {
                sum += kernel[q][i] * v[i];
            }
            u[q] = 1.0L / (m * sum);
        }
    }
    for (int q = 0; q < m; q++) {
        for (int i = 0; i < n; i++) {
            plan[q * n + i] = (double)(u[q] * kernel[q][i] * v[i] * m);
        }
    }
}

static void dense_plan(const setting *s, const made *b, double *plan) {
    const int n = b->count[IMAGE], support = s->plan < 3 ? IMAGE : TEXT;
    if (s->plan % 3 == 2) {
        transport(b, support, s->iterations == 0 ? 10 : s->iterations, plan);
        return;
    }
    for (int q = 0; q < b->count[QUERY]; q++) {
        double z[MOST], *row = plan + q * n;
        int best = 0;
        for (int i = 0; i < n; i++) {
            z[i] = exp(b->log_scale) * product(b, QUERY, q, support, i);
            best = z[i] > z[best] ? i : best;
        }
        for (int i = 0; i < n; i++) {
            row[i] = s->plan % 3 == 1 ? exp(z[i] - log_sum(z, n)) : (double)(i == best);
        }
    }
}

/* Targets of the plan's nearest pairs; gives the number of rows that a guard changed. */
static int dense_target(const setting *s, const made *b, const double *plan, double *target) {
    const int n = b->count[IMAGE], k = b->count[KEYWORD];
    int guarded = 0;
    memset(target, 0, MOST * MOST * sizeof *target);
    for (int q = 0; q < b->count[QUERY]; q++) {
        double z[MOST], sum = 0.0, soft = 0.0;
        int best = 0, candidates = 0;
        bool positive = true;
        for (int i = 1; i < n; i++) {
            best = plan[q * n + i] > plan[q * n + best] * (1 + 1e-9) ? i : best;
        }
        const int32_t *mask = b->mask + best * k;
        for (int j = 0; j < k; j++) {
            z[j] = exp(b->log_scale) * product(b, QUERY, q, KEYWORD, j);
            if (mask[j]) {
                candidates++;
                sum += z[j];
                soft += exp(z[j]);
                positive = positive && z[j] > 0.0;
            }
        }
        const bool guard =
            candidates > 1 && !s->softmax && (fabs(sum) < 1e-13 || (s->strict && !positive));
        guarded += guard;
        for (int j = 0; j < k && candidates > 0; j++) {
            const double share = s->softmax || guard ? exp(z[j]) / soft : z[j] / sum;
            target[q * k + j] = !mask[j] ? 0.0 : candidates == 1 ? 1.0 : share;
        }
    }
    return guarded;
}

/* Terms with a plan (NULL: the batch's own) and targets given. */
static void dense_terms(const setting *s, const made *b, const double *plan, const double *target,
                        double terms[3]) {
    const int n = b->count[IMAGE], m = b->count[QUERY], k = b->count[KEYWORD];
    const double scale = exp(b->log_scale);
    double own[MOST * MOST], z[2 * MOST];
    terms[0] = terms[1] = terms[2] = 0.0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            z[j] = scale * product(b, IMAGE, i, TEXT, j);
        }
        terms[0] += (log_sum(z, n) - z[i]) / (2.0 * n);
        for (int j = 0; j < n + m; j++) {
            z[j] =
                scale * (j < n ? product(b, IMAGE, j, TEXT, i) : product(b, QUERY, j - n, TEXT, i));
        }
        terms[0] += (log_sum(z, s->no_negatives ? n : n + m) - z[i]) / (2.0 * n);
    }
    if (plan == NULL) {
        dense_plan(s, b, own);
        plan = own;
    }
    for (int q = 0; q < m; q++) {
        for (int i = 0; i < n; i++) {
            z[i] = scale * product(b, QUERY, q, TEXT, i);
        }
        for (int i = 0; i < n && !s->no_captions; i++) {
            terms[1] += plan[q * n + i] * (log_sum(z, n) - z[i]) / (2.0 * m);
        }
        for (int j = 0; j < k; j++) {
            z[j] = scale * product(b, QUERY, q, KEYWORD, j);
        }
        for (int j = 0; j < k && !s->no_keywords; j++) {
            terms[2] += target[q * k + j] * (log_sum(z, k) - z[j]) / (2.0 * m);
        }
    }
}

/* ---- comparison ---- */

static const double all_terms[3] = {1.0, 1.0, 1.0};

static double weighted(const double terms[3], const double weights[3]) {
    return weights[0] * terms[0] + weights[1] * terms[1] + weights[2] * terms[2];
}

/* d of the weighted dense terms by *number. */
static double slope(const setting *s, made *b, double *number, const double *plan,
                    const double *target, const double weights[3]) {
    static const double offsets[] = {1.0, -1.0, 2.0, -2.0};
    const double h = 2e-3 / fmax(2.0, exp(b->log_scale)), at = *number;
    double losses[4];
    for (int point = 0; point < 4; point++) {
        double terms[3];
        *number = at + offsets[point] * h;
        dense_terms(s, b, plan, target, terms);
        losses[point] = weighted(terms, weights);
    }
    *number = at;
    return (8.0 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12.0 * h);
}

/* Terms to 1e-11, gradients to 1e-6 of their largest entry; names what is off. */
static void compare(trial *t, const setting *s, made *b, const char *name) {
    double plan[MOST * MOST], target[MOST * MOST], terms[3], most = 1e-3, worst = 0.0;
    double slopes[VALUES + 1], got[VALUES + 1];
    int count = 0;
    const answer a = solve(t, b, all_terms);
    dense_plan(s, b, plan);
    const int guarded = dense_target(s, b, plan, target);
    dense_terms(s, b, plan, target, terms);
    const bool held = s->constant_plan || s->plan % 3 == 0;
    for (int side = 0; side < SIDES; side++) {
        for (int i = 0; i < b->count[side] * WIDTH; i++) {
            got[count] = a.d_value[side][i];
            slopes[count++] =
                slope(s, b, &b->value[side][i], held ? plan : NULL, target, all_terms);
        }
    }
    got[count] = a.d_log_scale;
    slopes[count++] = slope(s, b, &b->log_scale, held ? plan : NULL, target, all_terms);
    for (int i = 0; i < count; i++) {
        most = fmax(most, fabs(slopes[i]));
        worst = fmax(worst, fabs(slopes[i] - got[i]));
    }
    for (int k = 0; k < 3; k++) {
        if (!(fabs(terms[k] - a.terms[k]) <= 1e-11 * fmax(1.0, fabs(terms[k])))) {
            engine_fail("%s, %s: term %d is %.15g, not %.15g", name, plans[s->plan], k, a.terms[k],
                        terms[k]);
        }
    }
    if (!(worst <= 1e-6 * most)) {
        engine_fail("%s, %s: gradient off by %g of %g", name, plans[s->plan], worst, most);
    }
    if ((int)a.guarded != guarded) {
        engine_fail("%s: %g rows guarded, not %d", name, a.guarded, guarded);
    }
}

/* ---- on features made here ---- */

static void test_plans(void) {
    for (int plan = 0; plan < 6; plan++) {
        for (int constant = 0; constant < 2; constant++) {
            const setting s = {.plan = plan, .constant_plan = constant == 1};
            trial t;
            made b;
            open_setting(&s, &t);
            compare(&t, &s, (b = make_batch(5, 6, 4, 10, 0.3, 1), &b), "several");
            compare(&t, &s, (b = make_batch(3, 7, 5, 100, 0.5, 2), &b), "scale 100");
            compare(&t, &s, (b = make_batch(7, 2, 3, 3, 1, 3), &b), "both signs");
            compare(&t, &s, (b = make_batch(1, 4, 3, 10, 0.4, 4), &b), "one pair");
            compare(&t, &s, (b = make_batch(1, 1, 1, 10, 0.4, 5), &b), "one of each");
            compare(&t, &s, (b = make_batch(4, 5, 1, 10, 0.4, 6), &b), "one keyword");
            engine_close(&t);
        }
    }
}

/* Logits that span more than exp can: scale 2000. */
static void test_sharp(void) {
    for (int plan = 0; plan < 6; plan++) {
        const setting s = {.plan = plan};
        trial t;
        made b;
        open_setting(&s, &t);
        compare(&t, &s, (b = make_batch(4, 5, 2, 280, 1, 7), &b), "scale 280");
        compare(&t, &s, (b = make_batch(4, 5, 2, 320, 1, 7), &b), "scale 320");
        compare(&t, &s, (b = make_batch(3, 4, 2, 2000, 1, 8), &b), "scale 2000");
        engine_close(&t);
    }
}

static void test_iterations(void) {
    for (int iterations = 1; iterations < 40; iterations = 3 * iterations + 1) {
        const setting s = {.plan = 2, .iterations = iterations};
        trial t;
        made b;
        open_setting(&s, &t);
        compare(&t, &s, (b = make_batch(4, 5, 3, 20, 0.5, 9), &b), "iterations");
        engine_close(&t);
    }
}

static void test_terms(void) {
    static const setting settings[] = {{.plan = 2, .no_negatives = true},
                                       {.plan = 2, .no_captions = true},
                                       {.plan = 5, .no_keywords = true},
                                       {.plan = 1, .no_negatives = true, .no_captions = true},
                                       {.plan = 2, .no_captions = true, .no_keywords = true},
                                       {.plan = 4, .no_negatives = true, .no_keywords = true}};
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        trial t;
        made b = make_batch(4, 5, 3, 10, 0.4, 10 + i);
        open_setting(&settings[i], &t);
        compare(&t, &settings[i], &b, "terms");
        engine_close(&t);
    }
}

/* Without any use for queries none are read: plain CLIP's loss. */
static void test_base(void) {
    const setting s = {.plan = 2, .no_negatives = true, .no_captions = true, .no_keywords = true};
    trial t;
    made b = make_batch(4, 0, 0, 10, 0.4, 17);
    open_setting(&s, &t);
    ENGINE_CHECK(slot_of(&t, "query") < 0 && slot_of(&t, "keyword") < 0);
    compare(&t, &s, &b, "base");
    engine_close(&t);
}

/* Similarities of both signs give targets that are no probabilities, unless a guard says otherwise;
 * candidates that cancel are guarded in any case. */
static void test_targets(void) {
    for (int way = 0; way < 3; way++) {
        const setting s = {.plan = 2, .softmax = way == 1, .strict = way == 2};
        trial t;
        made b = make_batch(3, 6, 5, 5, 1, 20);
        double plan[MOST * MOST], target[MOST * MOST], least = 0.0;
        for (int i = 0; i < 15; i++) {
            b.mask[i] = i % 5 != 4;
        }
        open_setting(&s, &t);
        compare(&t, &s, &b, "targets");
        dense_plan(&s, &b, plan);
        const int guarded = dense_target(&s, &b, plan, target);
        for (int i = 0; i < 30; i++) {
            least = fmin(least, target[i]);
        }
        ENGINE_CHECK((least < -0.01) == (way == 0)); /* the batch shows what it is to show */
        ENGINE_CHECK((guarded > 0) == (way == 2));
        /* Keyword 1 is the opposite of keyword 0: their similarities sum to 0 exactly. */
        for (int i = 0; i < 15; i++) {
            b.mask[i] = i % 5 < 2;
        }
        for (int c = 0; c < WIDTH; c++) {
            b.value[KEYWORD][WIDTH + c] = -b.value[KEYWORD][c];
        }
        compare(&t, &s, &b, "candidates that cancel");
        const answer a = solve(&t, &b, all_terms);
        ENGINE_CHECK(isfinite(a.terms[2]) && (int)a.guarded == (way == 1 ? 0 : 6));
        engine_close(&t);
    }
}

static void test_candidates(void) {
    const setting s = {.plan = 2};
    trial t;
    made b = make_batch(4, 5, 3, 10, 0.4, 30);
    open_setting(&s, &t);
    memset(b.mask, 0, sizeof b.mask);
    compare(&t, &s, &b, "no candidate anywhere");
    answer a = solve(&t, &b, all_terms);
    ENGINE_CHECK(a.terms[2] == 0.0 && a.share == 0.0);
    b.mask[2] = b.mask[4] = 1; /* pairs 0 and 1 */
    compare(&t, &s, &b, "pairs with none");
    a = solve(&t, &b, all_terms);
    ENGINE_CHECK(a.share == 0.5);
    for (int c = 0; c < WIDTH; c++) { /* an equal keyword: both are candidates, each a negative */
        b.value[KEYWORD][WIDTH + c] = b.value[KEYWORD][c];
    }
    for (int i = 0; i < 4; i++) {
        b.mask[3 * i] = b.mask[3 * i + 1] = 1;
    }
    compare(&t, &s, &b, "equal keywords");
    engine_close(&t);
}

/* Pairs 1 and 2 show the same picture, pair 1 alone has a keyword: ties go to the lower index,
 * whatever rounding says. */
static void test_ties(void) {
    for (int plan = 0; plan < 6; plan++) {
        const setting s = {.plan = plan};
        trial t;
        made b = make_batch(3, 4, 2, 50, 0.2, 40);
        memset(b.mask, 0, sizeof b.mask);
        b.mask[2] = 1;
        for (int c = 0; c < WIDTH; c++) {
            b.value[IMAGE][2 * WIDTH + c] = b.value[IMAGE][WIDTH + c];
            b.value[TEXT][2 * WIDTH + c] = b.value[TEXT][WIDTH + c];
            for (int q = 0; q < 4; q++) {
                b.value[QUERY][q * WIDTH + c] = b.value[IMAGE][WIDTH + c];
            }
        }
        b.value[IMAGE][2 * WIDTH] *= 1.0 + 2 * DBL_EPSILON;
        b.value[TEXT][2 * WIDTH] *= 1.0 + 2 * DBL_EPSILON;
        open_setting(&s, &t);
        const answer a = solve(&t, &b, all_terms);
        double wanted = 0.0;
        for (int q = 0; q < 4; q++) {
            double z[2];
            for (int j = 0; j < 2; j++) {
                z[j] = 50.0 * product(&b, QUERY, q, KEYWORD, j);
            }
            wanted += (log_sum(z, 2) - z[0]) / 8.0;
        }
        if (s.plan % 3 < 2) { /* identical queries leave a transport plan uniform: pair 0 */
            ENGINE_CHECK(fabs(a.terms[2] - wanted) < 1e-12);
        } else {
            ENGINE_CHECK(a.terms[2] == 0.0);
        }
        engine_close(&t);
    }
}

/* One query: a transport plan is uniform, the nearest pair the first, the plan has no gradient. */
static void test_one_query(void) {
    for (int plan = 2; plan < 6; plan += 3) {
        const setting s = {.plan = plan};
        trial t;
        made b = make_batch(4, 1, 2, 10, 0.5, 50);
        memset(b.mask, 0, sizeof b.mask);
        b.mask[1] = 1; /* of pair 0 */
        open_setting(&s, &t);
        compare(&t, &s, &b, "one query");
        const answer a = solve(&t, &b, all_terms);
        ENGINE_CHECK(a.terms[2] > 0.0);
        engine_close(&t);
    }
}

/* Images, captions and queries by 1/W; keywords and scale as they are. */
static void test_published_ranks(void) {
    const setting exact = {.plan = 2}, published = {.plan = 2, .ranks = 4};
    trial t;
    const made b = make_batch(4, 5, 3, 10, 0.4, 60);
    open_setting(&exact, &t);
    const answer one = solve(&t, &b, all_terms);
    engine_close(&t);
    open_setting(&published, &t);
    const answer four = solve(&t, &b, all_terms);
    engine_close(&t);
    double size[SIDES] = {0};
    for (int side = 0; side < SIDES; side++) {
        for (int i = 0; i < b.count[side] * WIDTH; i++) {
            const double factor = side == KEYWORD ? 1.0 : 0.25;
            ENGINE_CHECK(fabs(four.d_value[side][i] - factor * one.d_value[side][i]) < 1e-15);
            size[side] = fmax(size[side], fabs(one.d_value[side][i]));
        }
        ENGINE_CHECK(size[side] > 1e-3);
    }
    ENGINE_CHECK(four.d_log_scale == one.d_log_scale && four.terms[1] == one.terms[1]);
}

/* ---- through the engine ---- */

#define SCLIP(rest) "{\"name\":\"sclip\",\"options\":{\"unlabelled\":\"extra\"," rest "}}"
#define LEAVES "\"keywords\":[\"oak\",\"ash\",\"elm\"]"

/* Every caption holds one of three keywords, so that targets stay what they are while parameters
 * move a little. */
static void test_gradient(void) {
    static const engine_job jobs[] = {
        {.objectives = "[" SCLIP(LEAVES) "]", .optimizer = SGD, .steps = 1},
        {.objectives = "[" SCLIP(LEAVES ",\"plan\":\"soft-text\",\"init_scale\":5") "]",
         .optimizer = SGD,
         .stage = ", \"rows\":{\"extra\":5}",
         .steps = 1},
        {.objectives = "[" SCLIP("\"keywords_from\":\"classes\"") "]",
         .optimizer = SGD,
         .stage = ", \"rows\":{\"extra\":1}, \"activation_budget_mb\":0",
         .steps = 1},
        {.objectives = "[" SCLIP("\"query_negatives\":false") "]", .optimizer = SGD, .steps = 1}};
    for (size_t j = 0; j < sizeof jobs / sizeof jobs[0]; j++) {
        const double error = engine_gradient_error(&jobs[j]);
        if (!(error < 1e-6)) {
            engine_fail("%s: gradient off by %g", jobs[j].objectives, error);
        }
    }
}

static double *gradient_of(const engine_job *job, double *loss_out, int64_t *count_out) {
    trial t;
    ENGINE_MUST(engine_open(job, &t));
    free(engine_values(&t, count_out));
    engine_close(&t);
    double *gradient = calloc((size_t)*count_out, sizeof *gradient);
    *loss_out = engine_loss(job, NULL, gradient);
    return gradient;
}

/* The gradient of a composition is the weighted sum of its parts'. */
static void test_composition(void) {
    static const char *const objectives[] = {
        "[" SCLIP(LEAVES) "]", "[{\"name\":\"clip\",\"options\":{}}]",
        "[{\"name\":\"clip\",\"weight\":2,\"options\":{}},{\"name\":\"sclip\",\"weight\":0.3,"
        "\"options\":{\"unlabelled\":\"extra\"," LEAVES "}}]"};
    double loss[3], *gradient[3];
    int64_t count[3];
    for (int i = 0; i < 3; i++) {
        const engine_job job = {.objectives = objectives[i], .optimizer = SGD, .steps = 1};
        gradient[i] = gradient_of(&job, &loss[i], &count[i]);
    }
    ENGINE_CHECK(fabs(0.3 * loss[0] + 2.0 * loss[1] - loss[2]) < 1e-12 * loss[2]);
    ENGINE_CHECK(count[0] == count[1] && count[0] == count[2]);
    for (int64_t i = 0; i < count[2]; i++) {
        gradient[0][i] = 0.3 * gradient[0][i] + 2.0 * gradient[1][i];
    }
    ENGINE_CHECK(engine_difference(gradient[0], gradient[2], count[2]) < 1e-9);
    for (int i = 0; i < 3; i++) {
        free(gradient[i]);
    }
}

/* Pairs, queries and keywords dealt to more or fewer grains: the same loss and gradient. */
static void test_grains(void) {
    static const struct {
        int64_t grain;
        const char *rows;
    } ways[] = {{4, ", \"rows\":{\"extra\":4}"},
                {16, ", \"rows\":{\"extra\":16}"},
                {2, ", \"rows\":{\"extra\":2}, \"activation_budget_mb\":0"},
                {1, ", \"rows\":{\"extra\":1}"}};
    double *first = NULL, loss = 0.0;
    int64_t count = 0;
    for (int g = 0; g < 4; g++) {
        const engine_job job = {.objectives = "[" SCLIP(LEAVES) "]",
                                .optimizer = SGD,
                                .stage = ways[g].rows,
                                .steps = 1,
                                .grain = ways[g].grain};
        double other = 0.0;
        double *gradient = gradient_of(&job, &other, &count);
        if (first == NULL) {
            first = gradient;
            loss = other;
            continue;
        }
        ENGINE_CHECK(fabs(other - loss) < 1e-12 * loss);
        ENGINE_CHECK(engine_difference(gradient, first, count) < 1e-9);
        free(gradient);
    }
    free(first);
}

/* Byte for byte between blanks. */
static void test_matching(void) {
    static const struct {
        const char *caption;
        int32_t mask[6];
    } cases[] = {{"a parking lot with cars", {1, 1, 0, 0, 0, 0}},
                 {"Parking near an airport .", {0, 0, 1, 0, 0, 0}},
                 {"an airport. two  words", {0, 0, 0, 0, 0, 0}},
                 {"airports airport", {0, 0, 1, 0, 0, 0}},
                 {"carparking lot, an xairport", {0, 0, 0, 0, 0, 0}},
                 {"parking", {1, 0, 0, 0, 0, 0}},
                 {" parking lot ", {1, 1, 0, 0, 0, 0}},
                 {"parking\tlot", {0, 0, 0, 0, 0, 0}},
                 {"two words", {0, 0, 0, 1, 0, 0}},
                 {"aa aa aaa", {0, 0, 0, 0, 1, 0}},
                 {"caf\xc3\xa9 au lait", {0, 0, 0, 0, 0, 1}},
                 {"", {0, 0, 0, 0, 0, 0}}};
    static const engine_job job = {
        .objectives = "[" SCLIP("\"keywords\":[\"parking\",\"parking lot\",\"airport\",\"two "
                                "words\",\"aa\",\"caf\xc3\xa9\"]") "]",
        .optimizer = SGD};
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    const cps_instance *instance = &t.plan->instances[0];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t row[6] = {7, 7, 7, 7, 7, 7};
        ENGINE_MUST(instance->objective->annotate(instance->self, NULL, 0, cases[i].caption, row));
        if (memcmp(row, cases[i].mask, sizeof row) != 0) {
            engine_fail("'%s': %d %d %d %d %d %d", cases[i].caption, row[0], row[1], row[2], row[3],
                        row[4], row[5]);
        }
    }
    engine_close(&t);
}

/* The mask belongs to the caption that the text tower reads: a record's captions are put in a short
 * and a long way, and the rows with the keyword of the long one are those of more tokens. */
static void test_mask_is_of_the_caption(void) {
    static const engine_job job = {
        .objectives = "[" SCLIP("\"keywords\":[\"rather long\",\"leaf,\"]") "]", .optimizer = SGD};
    trial t;
    int64_t longest = 0, shortest = 1000;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    const int text = t.plan->views[1].input, mask = t.plan->annotations[0].input;
    for (int64_t grain = 0; grain < t.plan->grains; grain++) {
        const cps_batch *batch = NULL;
        ENGINE_MUST(cps_loader_grain(t.loop->loader, 0, grain, &batch));
        for (int64_t row = 0; row < batch->inputs[text].rows; row++) {
            const int32_t *has = (const int32_t *)batch->inputs[mask].annotation + 2 * row;
            const int64_t length =
                batch->inputs[text].offsets[row + 1] - batch->inputs[text].offsets[row];
            ENGINE_CHECK(has[0] + has[1] == 1);
            shortest = has[0] == 1 ? cps_min_i64(shortest, length) : shortest;
            longest = has[1] == 1 ? cps_max_i64(longest, length) : longest;
        }
    }
    ENGINE_CHECK(longest > 0 && longest < shortest && shortest < 1000);
    engine_close(&t);
}

/* 3 queries beside 4 pairs a grain, from 23 images: each is seen once before any is seen again, and
 * the second time round in another order. */
static void test_queries_run_on(void) {
    static const engine_job job = {.objectives = "[" SCLIP(LEAVES) "]",
                                   .optimizer = SGD,
                                   .stage = ", \"rows\":{\"extra\":3}",
                                   .steps = 4};
    uint64_t ids[48];
    int64_t count = 0;
    trial t;
    ENGINE_MUST(engine_open(&job, &t));
    ENGINE_MUST(engine_begin(&t));
    for (int64_t at = 0; at < 4 * t.plan->grains; at++) {
        const cps_batch *batch = NULL;
        const int64_t step = at / t.plan->grains;
        ENGINE_MUST(cps_loader_grain(t.loop->loader, step, at % t.plan->grains, &batch));
        ENGINE_CHECK(batch->streams[0].rows == 4 && batch->streams[1].rows == 3);
        for (int64_t row = 0; row < 3; row++) {
            ids[count++] = batch->streams[1].sample_ids[row];
        }
        if (at % t.plan->grains == t.plan->grains - 1) {
            cps_loader_release_step(t.loop->loader, step);
        }
    }
    int64_t same = 0;
    for (int64_t i = 0; i < 46; i++) {
        for (int64_t j = i / 23 * 23; j < i; j++) {
            ENGINE_CHECK(ids[i] != ids[j]);
        }
        ENGINE_CHECK(ids[i] >= 1100 && ids[i] < 1123);
        same += i >= 23 && ids[i] == ids[i - 23];
    }
    ENGINE_CHECK(count == 48 && same < 8);
    engine_close(&t);
}

int main(int argc, char **argv) {
    static const engine_test tests[] = {
        {"plans", test_plans},
        {"sharp", test_sharp},
        {"iterations", test_iterations},
        {"terms", test_terms},
        {"base", test_base},
        {"targets", test_targets},
        {"candidates", test_candidates},
        {"ties", test_ties},
        {"one query", test_one_query},
        {"published ranks", test_published_ranks},
        {"gradient", test_gradient},
        {"composition", test_composition},
        {"grains", test_grains},
        {"matching", test_matching},
        {"queries run on", test_queries_run_on},
        {"the mask is of the caption", test_mask_is_of_the_caption}};
    engine_start(&argc, &argv);
    engine_run_tests(tests, sizeof tests / sizeof tests[0]);
    return engine_end();
}
