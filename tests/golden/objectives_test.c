/* Losses and gradients of our objectives against numbers that the papers' own code gave in double
 * precision. S-CLIP: the official loss.py, case `tiny` (s-clip.md, section 8, inline example).
 * BioCLIP: two processes of the official loss.py, group clip_w2 of bioclip.h5 (bioclip.md, section
 * 9). `make vectors` compares all of both; these few need no files. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "tests/vectors/objective.h"
#include "tests/vectors/vectors.h"

static void check(const double *got, const double *want, int64_t count, double in_double,
                  double in_float) {
    const double error = vectors_error(got, want, count, 1.0);
    if (!(error <= vectors_tolerance(in_double, in_float))) {
        fail_msg("relative error %g", error);
    }
}

static void run(const objective_loss *wanted, objective_result *result) {
    if (objective_run_loss(wanted, result) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
}

/* ---- S-CLIP: two pairs, two queries, two keywords ---- */

enum { TINY = 4 };

typedef struct tiny {
    double d_image[TINY], d_text[TINY], d_query[TINY], d_keyword[TINY], d_log_scale;
    objective_result result;
} tiny;

static void run_tiny(const char *name, const char *options, const char *only, tiny *out) {
    static const double image[TINY] = {1, 0, 0, 1}, text[TINY] = {0.8, 0.6, 0.28, 0.96},
                        query[TINY] = {0.6, 0.8, 0.96, 0.28}, keyword[TINY] = {1, 0, 0.6, 0.8},
                        mask[TINY] = {1, 1, 0, 1};
    const double log_scale = log(4.0);
    objective_rows slots[] = {{"image", 2, 2, image, out->d_image},
                              {"text", 2, 2, text, out->d_text},
                              {"query", 2, 2, query, out->d_query},
                              {"keyword", 2, 2, keyword, out->d_keyword},
                              {"keyword_mask", 2, 2, mask, NULL}};
    objective_parameter scale = {"logit_scale", 1, &log_scale, &out->d_log_scale};
    const objective_loss wanted = {.name = name,
                                   .options = options,
                                   .embed_dim = 2,
                                   .slots = slots,
                                   .slot_count = 5,
                                   .parameters = &scale,
                                   .parameter_count = 1,
                                   .only = only};
    run(&wanted, &out->result);
}

static void check_tiny(const double *got, const double *want, int64_t count) {
    check(got, want, count, 1e-9, 1e-4);
}

static void test_base(void **state) {
    static const double loss = 0.191312046262, d_scale = -0.057684222251,
                        d_image[TINY] = {-0.288464547234, -0.086703835694, 0.330319025796,
                                         0.057727658228};
    (void)state;
    tiny got;
    run_tiny("clip", "{}", NULL, &got);
    const double own_scale = got.d_log_scale / 4.0;
    check_tiny(&got.result.loss, &loss, 1);
    check_tiny(&own_scale, &d_scale, 1);
    check_tiny(got.d_image, d_image, TINY);
}

/* The pairs' term is the same with every plan. */
static void test_plans(void **state) {
    static const struct {
        const char *options;
        double caption, keyword; /* 0: not given */
    } plans[] = {
        {"{\"keywords\":[\"a\",\"b\"],\"plan\":\"hard-image\"}", 0.231819357026, 0},
        {"{\"keywords\":[\"a\",\"b\"],\"plan\":\"soft-image\"}", 0.249001245533, 0},
        {"{\"keywords\":[\"a\",\"b\"],\"plan\":\"soft-text\"}", 0.286524796111, 0.374576585505},
        {"{\"keywords\":[\"a\",\"b\"],\"plan\":\"ot-image\"}", 0.286754905426, 0.224576585505},
        {"{\"keywords\":[\"a\",\"b\"],\"keyword_target\":\"softmax\"}", 0, 0.207088759081},
    };
    static const double contrastive = 0.680762171483;
    (void)state;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        tiny got;
        run_tiny("sclip", plans[i].options, NULL, &got);
        const double pairs = objective_value_of(&got.result, "contrastive"),
                     caption = objective_value_of(&got.result, "caption"),
                     keyword = objective_value_of(&got.result, "keyword");
        check_tiny(&pairs, &contrastive, 1);
        if (plans[i].caption != 0) {
            check_tiny(&caption, &plans[i].caption, 1);
        }
        if (plans[i].keyword != 0) {
            check_tiny(&keyword, &plans[i].keyword, 1);
        }
    }
}

/* The caption term alone, through the transport plan and with the plan as a constant. */
static void test_caption_term(void **state) {
    static const double learning[] = {-0.033809947809, 0.048836591279, 0.033910604037,
                                      -0.048981983610, 0.290027948584, -0.229965571714,
                                      -0.105430119587, 0.102167074716, -0.082561822104},
                        constant[] = {0,
                                      0,
                                      0,
                                      0,
                                      0.196111426893,
                                      -0.135769449387,
                                      -0.011513597896,
                                      0.007970952390,
                                      4 * 0.000057527329};
    static const double d_text[TINY] = {0.205026542607, 0.295510257891, -0.205026542607,
                                        -0.295510257891};
    (void)state;
    for (int learns = 0; learns < 2; learns++) {
        const double *want = learns ? learning : constant;
        tiny got;
        run_tiny("sclip",
                 learns ? "{\"keyword_term\":false}"
                        : "{\"keyword_term\":false,\"plan_grad\":false}",
                 "caption", &got);
        check_tiny(got.d_image, want, TINY);
        check_tiny(got.d_query, want + 4, TINY);
        check_tiny(&got.d_log_scale, want + 8, 1);
        check_tiny(got.d_text, d_text, TINY);
    }
}

static void test_total(void **state) {
    static const double loss = 1.192093662414, d_scale = -0.059393284443,
                        d_image[TINY] = {-0.725183938123, -0.363517433933, 0.054126229429,
                                         -0.580085305573},
                        d_text[TINY] = {-0.157935848226, 0.970201981832, 0.271100085911,
                                        -0.663288459798},
                        d_query[TINY] = {0.774367250399, 0.264104049815, 0.234155634090,
                                         0.300754198882},
                        d_keyword[TINY] = {0.205715927465, 0.164988988135, -0.205715927465,
                                           -0.164988988135};
    (void)state;
    tiny got;
    run_tiny("sclip", "{\"keywords\":[\"a\",\"b\"]}", NULL, &got);
    const double own_scale = got.d_log_scale / 4.0;
    check_tiny(&got.result.loss, &loss, 1);
    check_tiny(got.d_image, d_image, TINY);
    check_tiny(got.d_text, d_text, TINY);
    check_tiny(got.d_query, d_query, TINY);
    check_tiny(got.d_keyword, d_keyword, TINY);
    check_tiny(&own_scale, &d_scale, 1);
}

/* ---- BioCLIP: six pairs, three on each of two processes ---- */

enum { PAIRS = 6, WIDTH = 4, FEATURES = PAIRS * WIDTH, PROCESSES = 2 };

static const double organism_images[FEATURES] = {
    0.83679035201299568,  -0.23911121678929803, 0.45098582614569716,  0.19803918147475552,
    0.7932934208351291,   -0.41176274843373623, -0.29082055692081188, 0.34140941863730617,
    -0.5550414676008627,  -0.33207178987731323, 0.42819166358988076,  -0.63111741763580598,
    0.95594091492971456,  0.11980192742971037,  0.014810153572107141, 0.26759133898285542,
    -0.40092629467094032, 0.05004616174516955,  0.030818601419977078, -0.9142230043826961,
    -0.18652849491193946, 0.38363364278131773,  0.80152732150539363,  0.41903019174352113};
static const double organism_texts[FEATURES] = {
    -0.72014630576912197, -0.46774561671582837, -0.20487219319204514, 0.46971344539718785,
    0.84942942897235985,  -0.19096624280576277, -0.44969515193859266, -0.19943873652645197,
    0.42901934837377131,  -0.83490931146420466, 0.17449385980245088,  -0.29735623962270386,
    -0.62399695648484543, 0.019190978212543543, 0.076345898078745839, 0.77745148305180123,
    0.34540342655063833,  -0.78627493966844297, 0.23074135935771942,  -0.45741296140163745,
    0.18335240294583646,  -0.73844916455779042, -0.15442940797753121, -0.63025890366546855};

typedef struct organisms {
    double d_image[FEATURES], d_text[FEATURES], d_log_scale;
    objective_result result;
} organisms;

static void run_organisms(const char *options, organisms *out) {
    static const double log_scale = 2.659260036932778;
    objective_rows slots[] = {{"image", PAIRS, WIDTH, organism_images, out->d_image},
                              {"text", PAIRS, WIDTH, organism_texts, out->d_text}};
    objective_parameter scale = {"logit_scale", 1, &log_scale, &out->d_log_scale};
    const objective_loss wanted = {.name = "bioclip",
                                   .options = options,
                                   .embed_dim = WIDTH,
                                   .slots = slots,
                                   .slot_count = 2,
                                   .parameters = &scale,
                                   .parameter_count = 1};
    run(&wanted, &out->result);
}

static void check_organisms(const double *got, const double *want, int64_t count) {
    check(got, want, count, 1e-12, 1e-5);
}

static void test_whole_batch(void **state) {
    static const double loss = 8.655526702489613, d_log_scale = 8.183691096596927;
    static const double d_image[FEATURES] = {
        2.8924133254761912,    -0.84724628947742342, 0.80781839422500912,  -2.0077741632183468,
        -0.034151535892595626, -0.42272567877973849, 0.22950319204204508,  -0.14110921529333872,
        -1.2450837236715999,   -0.22071087354320279, -0.61953103469629323, -0.0016853304898489796,
        2.7263144228532168,    -0.33194850077814064, -0.83458731402605069, -2.1450153570419745,
        -0.49882065171066137,  0.58919554885830427,  -0.78799032309655948, 0.019061263924315203,
        -1.9795134529766316,   1.7663407598327487,   0.53295936795262588,  3.3887133836796988};
    (void)state;
    organisms got;
    run_organisms("{}", &got);
    check_organisms(&got.result.loss, &loss, 1);
    check_organisms(&got.d_log_scale, &d_log_scale, 1);
    check_organisms(got.d_image, d_image, FEATURES);
}

/* --local-loss without --gather-with-grad: a process lets its gradient reach its own rows alone.
 * The plugin's gradient is the mean over the processes of what each is left with. */
static void test_biased_processes(void **state) {
    static const double loss[PROCESSES] = {5.5160034378962575, 11.79504996708297},
                        d_scale[PROCESSES] = {4.917946864985976, 11.44943532820788};
    static const double d_image[FEATURES] = {
        2.9388764632515825,    -0.49134598694271076,  0.57313518744688974,  -1.8363634888203337,
        -0.020057526439183977, -0.029432962492989892, 0.02871559887246411,  -0.0055788543978978321,
        -0.41459491045130792,  0.17704743038230941,   -0.37032958382991837, -0.56869295309304679,
        3.5071151983494842,    -0.5018938315870537,   -1.2509714427065353,  -2.3262307940672833,
        -0.36664704385997365,  0.10819951739999115,   -0.87329238484447136, -0.3900117558565192,
        -1.9223754126947616,   1.8032357654655484,    0.54908718986312466,  3.3512590093560894};
    (void)state;
    organisms got;
    run_organisms("{\"published_ranks\":2,\"published_gather_with_grad\":false}", &got);
    for (int r = 0; r < PROCESSES; r++) {
        char name[32];
        snprintf(name, sizeof name, "rank%d.contrastive", r);
        const double own_loss = objective_value_of(&got.result, name);
        snprintf(name, sizeof name, "rank%d.d_logit_scale", r);
        const double own_scale = objective_value_of(&got.result, name);
        check_organisms(&own_loss, &loss[r], 1);
        check_organisms(&own_scale, &d_scale[r], 1);
    }
    for (int i = 0; i < FEATURES; i++) {
        got.d_image[i] *= PROCESSES;
    }
    check_organisms(got.d_image, d_image, FEATURES);
}

static int end(void **state) {
    (void)state;
    vectors_end();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base),         cmocka_unit_test(test_plans),
        cmocka_unit_test(test_caption_term), cmocka_unit_test(test_total),
        cmocka_unit_test(test_whole_batch),  cmocka_unit_test(test_biased_processes),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
