/* DINO's pairs of crops in AgriCLIP's vectors (group dino_loss), as steps of a stage that the
 * engine runs on one rank or several.
 *
 * Logits of a file get through the head as they are: one layer, the identity; row j of the crops is
 * the j-th unit vector; column j of v holds its logits, g the lengths of v's rows. Ranks' rows have
 * columns of their own, so the gradient of the whole batch shows each rank's. What the operations
 * give on their own must be the same. */
#include <math.h>

#include "stage.h"

static double tolerance_of(const char *group) {
    return vectors_tolerance(1e-10, strcmp(group, "dino_loss/big") == 0 ? 2e-3 : 2e-5);
}

/* ---- logits ---- */

/* A group of dino_loss: its sizes, and a stage that takes logits. */
typedef struct logits_case {
    cps_h5 *file;
    const char *group;
    agriclip_pairs pairs; /* of one rank; pointers unused */
    int64_t ranks, width; /* of a pooled row: all ranks' crops */
    trial t;
} logits_case;

static void open_logits(cps_h5 *file, const char *group, int64_t ranks, logits_case *c) {
    const int64_t crops = integer(file, group, "ncrops", AGRICLIP_CROPS - 2),
                  images = integer(file, group, "batch", MOST_ROWS);
    *c = (logits_case){.file = file,
                       .group = group,
                       .ranks = ranks,
                       .width = ranks * crops * images,
                       .pairs = {.crops = crops,
                                 .images = images,
                                 .classes = integer(file, group, "out_dim", MOST_CLASSES),
                                 .student_temp = number(file, group, "student_temp")}};
    vectors_need_same(group, crops >= 2 && images >= 1 && c->width <= MOST_ROWS);
    char *tower = cps_format("{\"kind\":\"vit\",\"variant\":\"dino\",\"image_size\":8,\"patch\":4,"
                             "\"width\":%lld,\"layers\":1,\"heads\":1}",
                             (long long)c->width);
    char *objective = cps_format(
        "\"K\":%lld,\"hidden\":1,\"bottleneck\":%lld,\"layers\":1,\"local_crops\":%lld,"
        "\"norm_last_layer\":false,\"freeze_last_layer\":0,\"momentum\":1,\"student_temp\":%.17g,"
        "\"teacher_temp\":%.17g,\"warmup_teacher_temp\":%.17g,\"warmup_teacher_temp_epochs\":%lld,"
        "\"center_momentum\":%.17g",
        (long long)c->pairs.classes, (long long)c->width, (long long)(crops - 2),
        c->pairs.student_temp, number(file, group, "teacher_temp"),
        number(file, group, "warmup_teacher_temp"),
        (long long)integer(file, group, "warmup_teacher_temp_epochs", MOST_STEPS),
        number(file, group, "center_momentum"));
    char *optimizer = sgd(probe_rate);
    const setting s = {.tower = tower,
                       .objective = objective,
                       .optimizer = optimizer,
                       .schedule = constant_rate,
                       .records = ranks * images,
                       .batch = ranks * images,
                       .grain = images,
                       .steps = cps_max_i64(1, integer(file, group, "nepochs", MOST_STEPS))};
    const int64_t rank = cps_comm_rank(the_engine.comm);
    agriclip_gives.kind = AGRICLIP_ROWS;
    agriclip_gives.images = images;
    agriclip_gives.unit[0] = rank * crops * images;
    agriclip_gives.unit[1] = rank * 2 * images;
    begin(&s, &c->t);
    free(tower);
    free(objective);
    free(optimizer);
}

static void close_logits(logits_case *c) {
    agriclip_gives.kind = AGRICLIP_NOTHING;
    engine_close(&c->t);
}

/* The head of student or teacher takes rows' logits: [rows, K] of all ranks. */
static void put_head(logits_case *c, const char *prefix, const double *logits, int64_t rows) {
    const int64_t classes = c->pairs.classes, width = c->width;
    double *identity = vectors_doubles(width * width), *zeros = vectors_doubles(width),
           *v = vectors_doubles(classes * width), *g = vectors_doubles(classes);
    for (int64_t i = 0; i < width; i++) {
        identity[i * width + i] = 1.0;
    }
    for (int64_t k = 0; k < classes; k++) {
        for (int64_t row = 0; row < rows; row++) {
            v[k * width + row] = logits[row * classes + k];
            g[k] += logits[row * classes + k] * logits[row * classes + k];
        }
        g[k] = sqrt(g[k]);
    }
    const struct {
        const char *name;
        const double *values;
        int64_t count;
    } parts[] = {{"mlp.weight", identity, width * width},
                 {"mlp.bias", zeros, width},
                 {"last_layer.weight_v", v, classes * width},
                 {"last_layer.weight_g", g, classes}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char *name = cps_format("%s.%s", prefix, parts[i].name);
        put_values(&c->t, name, parts[i].values, parts[i].count);
        free(name);
    }
    free(identity);
    free(zeros);
    free(v);
    free(g);
}

/* What a step did to the head, as a gradient of the logits [rows, K] of the mean over ranks:
 * dW = dv + v/|v| dg where g = |v|. */
static double *take_gradient(logits_case *c, const double *v, const double *g) {
    const int64_t classes = c->pairs.classes, width = c->width;
    double *v_after = take_values(&c->t, "ssl.head.last_layer.weight_v"),
           *g_after = take_values(&c->t, "ssl.head.last_layer.weight_g"),
           *gradient = vectors_doubles(width * classes);
    for (int64_t k = 0; k < classes; k++) {
        for (int64_t row = 0; row < width; row++) {
            const int64_t at = k * width + row;
            const double d_v = (v[at] - v_after[at]) / probe_rate,
                         d_g = (g[k] - g_after[k]) / probe_rate;
            gradient[row * classes + k] = d_v + v[at] / g[k] * d_g;
        }
    }
    free(v_after);
    free(g_after);
    return gradient;
}

typedef struct logits_step {
    double loss, temperature;
    double *gradient, *centre; /* of all ranks' rows; malloc'ed */
} logits_step;

/* Data step `step` on logits of all ranks' rows; centre NULL: the one that is there. */
static logits_step run_logits(logits_case *c, int64_t step, const double *student,
                              const double *teacher, const double *centre) {
    cps_step_result result;
    put_head(c, "ssl.head", student, c->width);
    put_head(c, "ssl.teacher.head", teacher, c->ranks * 2 * c->pairs.images);
    if (centre != NULL) {
        put_values(&c->t, "ssl.head.center", centre, c->pairs.classes);
    }
    double *v = take_values(&c->t, "ssl.head.last_layer.weight_v"),
           *g = take_values(&c->t, "ssl.head.last_layer.weight_g");
    seek(&c->t, step);
    vectors_need(engine_step(&c->t, &result));
    const logits_step out = {.loss = result.loss,
                             .temperature = value_of(&result, "teacher_temp"),
                             .gradient = take_gradient(c, v, g),
                             .centre = take_values(&c->t, "ssl.head.center")};
    free(v);
    free(g);
    return out;
}

static void free_step(logits_step *step) {
    free(step->gradient);
    free(step->centre);
}

static int64_t student_size(const logits_case *c) {
    return c->pairs.crops * c->pairs.images * c->pairs.classes;
}

static int64_t teacher_size(const logits_case *c) {
    return 2 * c->pairs.images * c->pairs.classes;
}

/* The same by the operations alone. */
static void run_pairs(const logits_case *c, double temperature, const double *student,
                      const double *teacher, const double *centre, double *loss, double *gradient,
                      double *probabilities) {
    agriclip_pairs pairs = c->pairs;
    pairs.teacher_temp = temperature;
    pairs.student = student;
    pairs.teacher = teacher;
    pairs.centre = centre;
    agriclip_dino_pairs(&pairs, loss, gradient, probabilities);
}

static void expect_both(const logits_case *c, const char *name, const double *got,
                        const double *also, int64_t count) {
    vectors_expect_both(c->file, c->group, name, got, also, count, tolerance_of(c->group));
}

/* Steps of data step epoch[i] with inputs i (or the same for all), the centre carried on where the
 * file gives none. */
static void check_steps(logits_case *c, const int64_t *epochs, int64_t steps, bool stacked) {
    const int64_t own = student_size(c), taught = teacher_size(c), classes = c->pairs.classes;
    double *student = read_all(c->file, c->group, "student", stacked ? steps * own : own);
    double *teacher = read_all(c->file, c->group, "teacher", stacked ? steps * taught : taught);
    static const char *const name_of_centre[] = {"center_in", NULL};
    double *first = vectors_has(c->file, c->group, name_of_centre)
                        ? read_all(c->file, c->group, "center_in", classes)
                        : NULL;
    double *centre = vectors_doubles(classes), *loss = vectors_doubles(steps),
           *loss2 = vectors_doubles(steps), *d = vectors_doubles(steps * own),
           *d2 = vectors_doubles(steps * own), *centres = vectors_doubles(steps * classes),
           *temp = vectors_doubles(steps), *q = vectors_doubles(taught);
    for (int64_t i = 0; i < steps; i++) {
        const double *s = student + (stacked ? i * own : 0),
                     *t = teacher + (stacked ? i * taught : 0);
        if (first != NULL) {
            memcpy(centre, first, (size_t)classes * sizeof *centre);
        }
        logits_step step = run_logits(c, epochs[i], s, t, first);
        loss[i] = step.loss;
        temp[i] = step.temperature;
        memcpy(d + i * own, step.gradient, (size_t)own * sizeof *d);
        run_pairs(c, step.temperature, s, t, centre, &loss2[i], d2 + i * own, q);
        memcpy(centre, step.centre, (size_t)classes * sizeof *centre);
        memcpy(centres + i * classes, centre, (size_t)classes * sizeof *centre);
        free_step(&step);
    }
    expect_both(c, "loss", loss, loss2, steps);
    expect_both(c, "dstudent", d, d2, steps * own);
    expect_both(c, "center_out", centres, NULL, steps * classes);
    expect_both(c, "temp", temp, NULL, steps);
    if (steps == 1) {
        expect_both(c, "teacher_probs", q, NULL, taught);
    }
    void *const all[] = {student, teacher, first, centre, loss, loss2, d, d2, centres, temp, q};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

/* The temperature of every epoch, as steps of one epoch each report it. */
static void check_temperatures(logits_case *c) {
    static const char *const name[] = {"temp_schedule", NULL};
    if (!vectors_has(c->file, c->group, name)) {
        return;
    }
    const int64_t epochs = c->t.plan->steps, own = student_size(c), taught = teacher_size(c);
    double *student = read_all(c->file, c->group, "student", own),
           *teacher = read_all(c->file, c->group, "teacher", taught),
           *values = vectors_doubles(epochs);
    for (int64_t i = 0; i < epochs; i++) {
        logits_step step = run_logits(c, i, student, teacher, NULL);
        values[i] = step.temperature;
        free_step(&step);
    }
    expect_both(c, "temp_schedule", values, NULL, epochs);
    free(student);
    free(teacher);
    free(values);
}

/* Data steps that a group has inputs for: `epoch`, or as many as `loss` has values. */
static int64_t *steps_of(cps_h5 *file, const char *group, bool *stacked_out, int64_t *count_out) {
    char *epoch = cps_format("%s/epoch", group), *loss = cps_format("%s/loss", group);
    cps_h5_info info;
    int64_t *epochs = NULL;
    vectors_need(cps_h5_inspect(file, loss, &info));
    if (info.kind != CPS_H5_DATASET || info.count < 1 || info.count > MOST_STEPS) {
        vectors_unusable("'%s' holds no losses", loss);
    }
    *stacked_out = !cps_h5_has(file, epoch);
    if (*stacked_out) {
        epochs = calloc((size_t)info.count, sizeof *epochs);
        for (int64_t i = 0; epochs != NULL && i < info.count; i++) {
            epochs[i] = i;
        }
        *count_out = info.count;
    } else {
        epochs = vectors_read_i64(file, epoch, count_out);
    }
    if (epochs == NULL || *count_out != info.count) {
        vectors_unusable("'%s' does not name a step for each of %lld losses", epoch,
                         (long long)info.count);
    }
    free(epoch);
    free(loss);
    return epochs;
}

static void check_logits(cps_h5 *file, const char *group) {
    static const char *const inputs[] = {"student", "teacher", "loss", NULL};
    bool stacked = false;
    int64_t count = 0;
    if (vectors_ranks_of(strrchr(group, '/') + 1, "ranks") > 0 ||
        !vectors_has(file, group, inputs)) {
        return;
    }
    int64_t *epochs = steps_of(file, group, &stacked, &count);
    logits_case c;
    open_logits(file, group, 1, &c);
    for (int64_t i = 0; i < count; i++) {
        vectors_need_same(group, epochs[i] >= 0 && epochs[i] < c.t.plan->steps);
    }
    check_steps(&c, epochs, count, stacked);
    check_temperatures(&c);
    close_logits(&c);
    free(epochs);
}

/* ---- several ranks ---- */

/* This rank's values to all, rank after rank. */
static void share(const char *what, const double *own, int64_t count, double *all) {
    int64_t bytes[VECTORS_MOST_RANKS];
    for (int32_t r = 0; r < cps_comm_size(the_engine.comm); r++) {
        bytes[r] = count * (int64_t)sizeof *own;
    }
    cps_comm_allgatherv(the_engine.comm, what, own, all, bytes);
}

/* One step of W ranks. The file's losses and gradients are those of single ranks before the mean,
 * W times what the whole batch has of them; each rank computes its own by the operations too. */
void agriclip_dino_ranks(cps_h5 *file, const char *group) {
    engine_start_on(vectors_comm(), "/proc/self/exe");
    logits_case c;
    const int64_t ranks = cps_comm_size(the_engine.comm), rank = cps_comm_rank(the_engine.comm);
    open_logits(file, group, ranks, &c);
    const int64_t own = student_size(&c), taught = teacher_size(&c), classes = c.pairs.classes;
    double *student = read_all(file, group, "student", ranks * own),
           *teacher = read_all(file, group, "teacher", ranks * taught),
           *centre = read_all(file, group, "center_in", classes),
           *epoch = read_all(file, group, "epoch", 1);
    double loss = 0.0, *losses = vectors_doubles(ranks), *also = vectors_doubles(ranks),
           *d_own = vectors_doubles(own), *d = vectors_doubles(ranks * own), mean = 0.0;
    vectors_need_same(group, epoch[0] >= 0 && epoch[0] < (double)c.t.plan->steps);
    logits_step step = run_logits(&c, (int64_t)epoch[0], student, teacher, centre);
    run_pairs(&c, step.temperature, student + rank * own, teacher + rank * taught, centre, &loss,
              d_own, NULL);
    share("losses", &loss, 1, losses);
    share("gradients", d_own, own, d);
    for (int64_t i = 0; i < ranks; i++) {
        mean += losses[i] / (double)ranks;
    }
    for (int64_t i = 0; i < ranks; i++) { /* the step's loss is the mean over ranks */
        also[i] = losses[i] + (step.loss - mean);
    }
    for (int64_t i = 0; i < ranks * own; i++) {
        step.gradient[i] *= (double)ranks;
    }
    expect_both(&c, "loss", losses, also, ranks);
    expect_both(&c, "dstudent", d, step.gradient, ranks * own);
    expect_both(&c, "center_out", step.centre, NULL, classes);
    free_step(&step);
    void *const all[] = {student, teacher, centre, epoch, losses, also, d_own, d};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
    close_logits(&c);
    engine_end_data();
}

/* Groups of several ranks, before anything else starts MPI. */
void agriclip_dino_run_ranks(cps_h5 *file) {
    char **names = NULL;
    int64_t count = 0;
    if (!cps_h5_has(file, "dino_loss")) {
        return;
    }
    vectors_need(cps_h5_list(file, "dino_loss", &names, &count));
    for (int64_t i = 0; i < count; i++) {
        const int64_t ranks = vectors_ranks_of(names[i], "ranks");
        if (ranks > 0) {
            char *group = cps_format("dino_loss/%s", names[i]);
            vectors_run_ranks(file, group, ranks);
            free(group);
        }
    }
    cps_strings_destroy(names, count);
}

void agriclip_dino_losses(cps_h5 *file) {
    engine_start_on(vectors_comm(), "/proc/self/exe");
    vectors_each(file, "dino_loss", check_logits);
    engine_end_data();
}
