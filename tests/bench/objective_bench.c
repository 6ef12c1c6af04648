/* What an objective costs beside plain CLIP: training steps of both in one process, taken in turn,
 * medians of their times. Before any clock starts the rows of a step are counted: both encode the
 * same images and the same text positions.
 *
 *   bioclip  beside clip on the same pairs. The captions are written into the shard as bioclip
 *            composes them from the ranks, and bioclip is held to that one text type.
 *   sclip    beside clip's loss on the same pairs, where the queries and keywords are encoded too,
 *            forward and backward (test objective "encode").
 *   the loss in it: what is left when a step that only encodes the same rows is taken away.
 *
 * The batch is S-CLIP's published one: 128 pairs, 128 queries, 45 keywords. The towers are small
 * (six layers of width 192 on pictures of 32 pixels, three on texts, features of 512), so a step
 * takes a second or less and the loss weighs more than it would beside the towers of the papers:
 * ViT-B-32 is about a hundred times the work for a pair. Wall times are of the
 * step; CPU times are of the whole process until its loaders are idle again, so they also hold
 * captions, annotations and pictures. */
#include <sys/resource.h>
#include <time.h>

#include "tests/ranks/engine.h"

enum { RECORDS = 256, PAIRS = 128, GRAIN = 32, KEYWORDS = 45, ROUNDS = 20, WARM_UP = 3, MOST = 3 };

/* ---- data: pictures with ranks, captions that hold keywords ---- */

static const char *const syllables[] = {"ba", "ko", "ri", "nu", "se", "ta", "mo", "vi"};
enum { SYLLABLES = 8 };

/* Word `number` of a kind, first letter as asked. */
static void make_word(int kind, int64_t number, bool upper, char out[16]) {
    snprintf(out, 16, "%s%s%s%s", syllables[kind % SYLLABLES], syllables[number % SYLLABLES],
             syllables[number / SYLLABLES % SYLLABLES], "um");
    if (upper) {
        out[0] = (char)(out[0] - 'a' + 'A');
    }
}

/* The seven ranks and the common name of record i; the caption of all of them. */
static void make_texts(int64_t i, char names[8][16], char caption[256]) {
    static const int64_t kinds_of[] = {1, 2, 3, 6, 12, 24, 48, 40};
    for (int k = 0; k < 8; k++) {
        make_word(k, i % kinds_of[k], k < 6, names[k]);
    }
    snprintf(caption, 256, "a photo of %s %s %s %s %s %s %s with common name %s.", names[0],
             names[1], names[2], names[3], names[4], names[5], names[6], names[7]);
}

static void make_shard(void) {
    static const char *const fields[] = {"kingdom", "phylum",  "class",       "order",  "family",
                                         "genus",   "species", "common_name", "caption"};
    char path[320];
    snprintf(path, sizeof path, "%s/bench.h5", the_engine.folder);
    cps_shard_writer *writer = NULL;
    ENGINE_MUST(cps_shard_writer_create(path, fields, 9, NULL, 0, "objective_bench", &writer));
    for (int64_t i = 0; i < RECORDS; i++) {
        char names[8][16], caption[256];
        const char *values[9];
        cps_record_text texts[9];
        make_texts(i, names, caption);
        for (int k = 0; k < 9; k++) {
            values[k] = k < 8 ? names[k] : caption;
            texts[k] = (cps_record_text){fields[k], 1, &values[k]};
        }
        size_t length = 0;
        uint8_t *bytes = engine_picture(i, &length);
        const cps_record record = {.sample_id = 1 + (uint64_t)i,
                                   .image = bytes,
                                   .image_bytes = length,
                                   .label = -1,
                                   .text_field_count = 9,
                                   .texts = texts};
        ENGINE_MUST(cps_shard_writer_append(writer, &record));
        free(bytes);
    }
    ENGINE_MUST(cps_shard_writer_finish(writer));
}

static cps_status corpus_line(void *context, const char **line_out) {
    static char names[8][16], caption[256];
    int64_t *at = context;
    make_texts(*at, names, caption);
    *line_out = *at < RECORDS ? caption : NULL;
    (*at)++;
    return CPS_OK;
}

static void make_tokenizer(void) {
    char path[320];
    int64_t at = 0, vocabulary = 0;
    snprintf(path, sizeof path, "%s/bench.txt", the_engine.folder);
    const cps_tokenizer_train_options options = {.vocabulary = 1000};
    ENGINE_MUST(cps_tokenizer_train(corpus_line, &at, &options, path, &vocabulary));
}

/* JSON of a `lines` option: species and common names. malloc'ed. */
static char *keyword_lines(void) {
    char *list = cps_format("{\"path\":\"keywords.txt\",\"lines\":[");
    for (int64_t i = 0; i < KEYWORDS; i++) {
        char word[16];
        make_word(i % 2 == 0 ? 6 : 7, i / 2, false, word);
        char *longer = cps_format("%s%s\"%s\"", list, i == 0 ? "" : ",", word);
        free(list);
        list = longer;
    }
    char *done = cps_format("%s]}", list);
    free(list);
    return done;
}

/* ---- trials ---- */

typedef struct contestant {
    trial trial;
    const char *name;
    int64_t image_rows, positions; /* of step 0 */
    double wall[ROUNDS], cpu[ROUNDS];
} contestant;

/* queries: the stage has a stream of unlabelled images. */
static char *job_text(const char *objectives, bool queries) {
    const char *folder = the_engine.folder;
    return cps_format(
        "{\"name\":\"bench\",\"seed\":3,\"reproducible\":\"world\",\"precision\":\"fp32\","
        "\"model\":{\"embed_dim\":512,\"image\":{\"image_size\":32,\"patch\":8,\"width\":192,"
        "\"layers\":6,\"heads\":3},"
        "\"text\":{\"width\":192,\"layers\":3,\"heads\":3,\"context\":77}},"
        "\"tokenizer\":{\"merges\":\"%s/bench.txt\",\"context\":77},"
        "\"data\":{\"paired\":{\"shards\":[\"%s/bench.h5\"]}%s%s%s},"
        "\"stages\":[{\"name\":\"stage1\",\"objectives\":%s,\"epochs\":0,\"steps\":1000,"
        "\"global_batch\":%d,\"grain\":%d,\"crop\":[0.9,1],\"activation_budget_mb\":-1,"
        "\"optimizer\":{\"kind\":\"adamw\",\"lr\":1e-5,\"weight_decay\":0.2},"
        "\"schedule\":{\"kind\":\"constant\"}}],\"evaluate\":[],\"checkpoint\":{}}",
        folder, folder, queries ? ",\"unlabelled\":{\"shards\":[\"" : "", queries ? folder : "",
        queries ? "/bench.h5\"]}" : "", objectives, PAIRS, GRAIN);
}

/* Rows that the towers get in step 0. */
static void count_rows(contestant *c) {
    const cps_stage_plan *plan = c->trial.plan;
    for (int64_t grain = 0; grain < plan->grains; grain++) {
        const cps_batch *batch = NULL;
        ENGINE_MUST(cps_loader_grain(c->trial.loop->loader, 0, grain, &batch));
        for (int32_t v = 0; v < plan->view_count; v++) {
            const cps_stage_view *view = &plan->views[v];
            if (view->view.fixed_text_count > 0) {
                c->positions += grain == 0 ? view->fixed.offsets[view->fixed.count] : 0;
            } else if (view->text) {
                const cps_input_rows *input = &batch->inputs[view->input];
                c->positions += input->offsets[input->rows];
            } else {
                c->image_rows += batch->inputs[view->input].rows;
            }
        }
    }
}

static void open_contestant(contestant *c, const char *name, const char *objectives, bool queries) {
    trial *t = &c->trial;
    c->name = name;
    t->text = job_text(objectives, queries);
    t->calls = (cps_job_calls){.context = t, .stage = engine_stage};
    ENGINE_MUST(cps_json_parse(t->text, strlen(t->text), "bench job", &t->job));
    snprintf(t->runs, sizeof t->runs, "%s/runs", the_engine.folder);
    const cps_run_options options = {.runs = t->runs, .until = -1, .threads = cps_pool_threads()};
    ENGINE_MUST(
        cps_run_open(the_engine.comm, the_engine.plugins, t->job, &t->calls, &options, &t->run));
    t->plan = t->run->stages[0].plan;
    ENGINE_MUST(cps_run_initialise(t->run));
    t->loop = calloc(1, sizeof *t->loop);
    t->loop->run = t->run;
    ENGINE_MUST(engine_begin(t));
    count_rows(c);
}

static double process_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* Until the loaders have what the next steps need and sleep; gives the CPU time so far. */
static double settle(void) {
    enum { LOOK_MS = 10 };
    double before, now = process_cpu();
    do {
        before = now;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
        now = process_cpu();
    } while (now - before > 0.02e-3 * LOOK_MS);
    return now;
}

static void step_of(contestant *c, double *wall_out, double *cpu_out) {
    cps_step_result result;
    const double cpu = settle();
    ENGINE_MUST(engine_step(&c->trial, &result));
    ENGINE_CHECK(!result.skipped);
    *wall_out = result.seconds;
    *cpu_out = settle() - cpu;
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of a[i] / b[i]; b NULL: of a. Rounds are compared one by one: what disturbs a machine
 * lasts longer than one. */
static double median(const double a[ROUNDS], const double *b) {
    double sorted[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        sorted[i] = b == NULL ? a[i] : a[i] / b[i];
    }
    qsort(sorted, ROUNDS, sizeof *sorted, by_value);
    return 0.5 * (sorted[ROUNDS / 2 - 1] + sorted[ROUNDS / 2]);
}

static void report(const contestant *c, double bound) {
    const contestant *objective = &c[0], *baseline = &c[1], *bare = &c[2];
    const double ratio = median(objective->wall, baseline->wall);
    printf("%s beside %s: %lld images, %lld text positions a step\n", objective->name,
           baseline->name, (long long)objective->image_rows, (long long)objective->positions);
    printf("    step, wall       %.1f and %.1f ms, ratio %.3f (wanted at most %.2f: %s)\n",
           1e3 * median(objective->wall, NULL), 1e3 * median(baseline->wall, NULL), ratio, bound,
           ratio <= bound ? "ok" : "ABOVE");
    printf("    with loader, CPU %.1f and %.1f ms, ratio %.3f\n",
           1e3 * median(objective->cpu, NULL), 1e3 * median(baseline->cpu, NULL),
           median(objective->cpu, baseline->cpu));
    printf("    the loss in it   %.3f and %.3f of the CPU time (encoding alone: %.1f ms)\n",
           1.0 - median(bare->cpu, objective->cpu), 1.0 - median(bare->cpu, baseline->cpu),
           1e3 * median(bare->cpu, NULL));
    fflush(stdout);
}

/* The objective, what it is measured against, and a step that only encodes: all with the same rows.
 */
typedef struct comparison {
    const char *names[MOST], *objectives[MOST];
    bool queries;
    double bound;
} comparison;

static void compare(const comparison *wanted) {
    static contestant c[MOST];
    memset(c, 0, sizeof c);
    const cps_objective *found = NULL;
    if (cps_plugins_find(the_engine.plugins, NULL, wanted->names[0], &found) != CPS_OK) {
        printf("%s: not built\n", wanted->names[0]);
        return;
    }
    for (int i = 0; i < MOST; i++) {
        open_contestant(&c[i], wanted->names[i], wanted->objectives[i], wanted->queries);
        if (c[i].image_rows != c[0].image_rows || c[i].positions != c[0].positions) {
            fprintf(stderr,
                    "%s encodes %lld images and %lld text positions, %s %lld and %lld: the figures "
                    "would not compare\n",
                    c[0].name, (long long)c[0].image_rows, (long long)c[0].positions, c[i].name,
                    (long long)c[i].image_rows, (long long)c[i].positions);
            exit(70);
        }
    }
    for (int round = -WARM_UP; round < ROUNDS; round++) {
        for (int i = 0; i < MOST; i++) {
            double wall = 0.0, cpu = 0.0;
            step_of(&c[i], &wall, &cpu);
            if (round >= 0) {
                c[i].wall[round] = wall;
                c[i].cpu[round] = cpu;
            }
        }
    }
    report(c, wanted->bound);
    for (int i = 0; i < MOST; i++) {
        engine_close(&c[i].trial);
    }
}

int main(int argc, char **argv) {
    engine_start(&argc, &argv);
    make_shard();
    make_tokenizer();
    const char *encode = engine_plugin("encode");
    char *keywords = keyword_lines();
    char *bare = cps_format("[{\"name\":\"encode\",\"plugin\":\"%s\",\"options\":{}}]", encode);
    char *rows = cps_format("\"unlabelled\":\"unlabelled\",\"texts\":%s", keywords);
    char *bare_rows =
        cps_format("[{\"name\":\"encode\",\"plugin\":\"%s\",\"options\":{%s}}]", encode, rows);
    char *pairs =
        cps_format("[{\"name\":\"encode\",\"plugin\":\"%s\",\"options\":{%s,\"contrast\":true}}]",
                   encode, rows);
    char *sclip = cps_format("[{\"name\":\"sclip\",\"options\":{\"keywords\":%s}}]", keywords);
    const comparison comparisons[] = {
        {.names = {"bioclip", "clip", "no loss"},
         .objectives = {"[{\"name\":\"bioclip\",\"options\":{\"text_types\":[0,0,0,0,1,0,0]}}]",
                        "[{\"name\":\"clip\",\"options\":{}}]", bare},
         .bound = 1.05},
        {.names = {"sclip", "clip on the same rows", "no loss"},
         .objectives = {sclip, pairs, bare_rows},
         .queries = true,
         .bound = 1.15},
    };
    printf("objectives, batch %d, threads %d, BLAS family %s, medians of %d steps\n", PAIRS,
           cps_pool_threads(), cps_gemm_core_name(), ROUNDS);
    for (size_t i = 0; i < sizeof comparisons / sizeof *comparisons; i++) {
        compare(&comparisons[i]);
    }
    char *texts[] = {keywords, bare, rows, bare_rows, pairs, sclip};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        free(texts[i]);
    }
    return engine_end();
}
