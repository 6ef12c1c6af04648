/* Two passes over the events: which rows the table has, in order of first appearance, then their
 * last and best values. */
#include "report/summary.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "report/progress.h"
#include "shards/taxon.h"

enum { MAX_LABELS = 256, MAX_NAMES = 128 };

typedef struct metric_row {
    const char *evaluation;    /* as shown; borrowed from the events or the table */
    const char *name, *metric; /* borrowed from the events; name: of the evaluation alone */
    double last, best;
    int64_t best_step, values;
    bool marked; /* it chose the best checkpoint */
} metric_row;

typedef struct metric_table {
    metric_row *rows;
    int64_t count, capacity;
    char *labels[MAX_LABELS]; /* "names (align)" */
    int32_t label_count;
    struct {
        const char *name;
        bool split;
    } names[MAX_NAMES]; /* of evaluations, as looked at so far */
    int32_t name_count;
} metric_table;

/* A growing text; out of memory is a panic, as in cps_format. */
typedef struct text_page {
    char *text;
    size_t length;
} text_page;

static void put(text_page *page, const char *format, ...) CPS_PRINTF(2, 3);
static void put(text_page *page, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    const size_t length = strlen(line);
    char *longer = realloc(page->text, page->length + length + 1);
    CPS_BUG_IF(longer == NULL);
    memcpy(longer + page->length, line, length + 1);
    page->text = longer;
    page->length += length;
}

bool cps_summary_is_metric(const cps_json *member) {
    static const char *const others[] = {
        "event",    "name",           "step",        "epoch",          "stage",      "samples",
        "seconds",  "bad_images",     "batches",     "unlabelled",     "non_finite", "batch",
        "unranked", "text_stand_ins", "equal_texts", "unseen_classes", "pass",       "heldout",
        NULL};
    const char *key = cps_json_key(member);
    for (int i = 0; others[i] != NULL; i++) {
        if (strcmp(key, others[i]) == 0) {
            return false;
        }
    }
    return cps_json_is_number(member);
}

static metric_row *find_row(metric_table *table, const char *evaluation, const char *name,
                            const char *metric) {
    for (int64_t i = 0; i < table->count; i++) {
        if (strcmp(table->rows[i].evaluation, evaluation) == 0 &&
            strcmp(table->rows[i].metric, metric) == 0) {
            return &table->rows[i];
        }
    }
    if (table->count == table->capacity) {
        table->capacity = table->capacity * 2 + 16;
        metric_row *longer = realloc(table->rows, (size_t)table->capacity * sizeof *longer);
        CPS_BUG_IF(longer == NULL);
        table->rows = longer;
    }
    metric_row *added = &table->rows[table->count++];
    *added = (metric_row){.evaluation = evaluation, .name = name, .metric = metric};
    return added;
}

/* The row of the metric that chose the best checkpoint; of several stages' the one with the best
 * value. */
static void mark(metric_table *table, const char *best_metric,
                 bool (*less_is_better)(const char *metric)) {
    metric_row *best = NULL;
    for (int64_t i = 0; i < table->count && best_metric != NULL; i++) {
        metric_row *row = &table->rows[i];
        const size_t length = strlen(row->name);
        if (strncmp(best_metric, row->name, length) != 0 || best_metric[length] != '.' ||
            strcmp(best_metric + length + 1, row->metric) != 0) {
            continue;
        }
        const bool better = best != NULL && (less_is_better(best_metric) ? row->best < best->best
                                                                         : row->best > best->best);
        best = best == NULL || better ? row : best;
    }
    if (best != NULL) {
        best->marked = true;
    }
}

static void add_value(metric_row *row, double value, int64_t step,
                      bool (*less_is_better)(const char *metric)) {
    char *metric = cps_format("%s.%s", row->name, row->metric);
    const bool less = less_is_better(metric);
    free(metric);
    if (row->values == 0 || (less ? value < row->best : value > row->best)) {
        row->best = value;
        row->best_step = step;
    }
    row->last = value;
    row->values++;
}

/* Under which name an event's numbers stand: an evaluation's own, of a finished fit its stage's;
 * NULL: it has no numbers for the table. */
static const char *name_of(const cps_json *event) {
    const char *kind = cps_json_get_string(event, "event", "");
    return strcmp(kind, "evaluation") == 0 ? cps_json_get_string(event, "name", NULL)
           : strcmp(kind, "finish") == 0   ? cps_json_get_string(event, "stage", NULL)
                                           : NULL;
}

/* Whether evaluations of that name were made at one step in several stages: of stages that fit and
 * make no step, all end at the same. Then each stage has rows of its own. */
static bool is_split(const cps_json *events, const char *name) {
    int64_t step = -1;
    const char *stage = NULL;
    for (const cps_json *at = cps_json_first(events); at != NULL; at = cps_json_next(at)) {
        if (strcmp(cps_json_get_string(at, "event", ""), "evaluation") != 0 ||
            strcmp(cps_json_get_string(at, "name", ""), name) != 0) {
            continue;
        }
        const char *now = cps_json_get_string(at, "stage", "");
        if (stage != NULL && cps_json_get_integer(at, "step", 0) == step &&
            strcmp(now, stage) != 0) {
            return true;
        }
        step = cps_json_get_integer(at, "step", 0);
        stage = now;
    }
    return false;
}

/* is_split, asked once a name. */
static bool is_known_split(metric_table *table, const cps_json *events, const char *name) {
    for (int32_t i = 0; i < table->name_count; i++) {
        if (strcmp(table->names[i].name, name) == 0) {
            return table->names[i].split;
        }
    }
    if (table->name_count == MAX_NAMES) {
        return false;
    }
    table->names[table->name_count].name = name;
    table->names[table->name_count].split = is_split(events, name);
    return table->names[table->name_count++].split;
}

/* What an event's rows are called: `name`, or "name (stage)". */
static const char *label_of(metric_table *table, const cps_json *events, const cps_json *event,
                            const char *name) {
    if (strcmp(cps_json_get_string(event, "event", ""), "evaluation") != 0 ||
        table->label_count == MAX_LABELS || !is_known_split(table, events, name)) {
        return name;
    }
    char *label = cps_format("%s (%s)", name, cps_json_get_string(event, "stage", ""));
    for (int32_t i = 0; i < table->label_count; i++) {
        if (strcmp(table->labels[i], label) == 0) {
            free(label);
            return table->labels[i];
        }
    }
    table->labels[table->label_count++] = label;
    return label;
}

static void collect(metric_table *table, const cps_json *events,
                    bool (*less_is_better)(const char *metric)) {
    for (const cps_json *at = cps_json_first(events); at != NULL; at = cps_json_next(at)) {
        const char *name = name_of(at);
        if (name == NULL) {
            continue;
        }
        const int64_t step = cps_json_get_integer(at, "step", 0);
        const char *label = label_of(table, events, at, name);
        for (const cps_json *member = cps_json_first(at); member != NULL;
             member = cps_json_next(member)) {
            if (cps_summary_is_metric(member)) {
                add_value(find_row(table, label, name, cps_json_key(member)),
                          cps_json_number(member), step, less_is_better);
            }
        }
    }
}

static const metric_row *row_of(const metric_table *table, const char *evaluation,
                                const char *metric, const char *ending) {
    const size_t length = strlen(metric);
    for (int64_t i = 0; i < table->count; i++) {
        const metric_row *row = &table->rows[i];
        if (strcmp(row->evaluation, evaluation) == 0 && strncmp(row->metric, metric, length) == 0 &&
            strcmp(row->metric + length, ending) == 0) {
            return row;
        }
    }
    return NULL;
}

/* Rows that stand beside another one's value: "top1_low" and "top1_high" beside "top1",
 * "shot5_chance" beside "shot5", "chance" beside the first that has an interval. */
static bool is_beside(const metric_table *table, const metric_row *row) {
    static const char *const endings[] = {"_low", "_high", "_chance"};
    const size_t length = strlen(row->metric);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t end = strlen(endings[i]);
        if (length > end && strcmp(row->metric + length - end, endings[i]) == 0) {
            char stem[64];
            snprintf(stem, sizeof stem, "%.*s", (int)(length - end), row->metric);
            return row_of(table, row->evaluation, stem, "") != NULL;
        }
    }
    return strcmp(row->metric, "chance") == 0 &&
           row_of(table, row->evaluation, "top1", "_low") != NULL;
}

/* Fractions with four places, ranks and losses with what they need. */
static const char *number_text(double value, char buffer[32]) {
    snprintf(buffer, 32, fabs(value) < 100.0 ? "%.4f" : "%.6g", value);
    return buffer;
}

/* Rows of one metric at all ranks of the taxonomy, kingdom first, stand together; `stem` is the
 * length of what their names share. One of them that chose the best checkpoint is shown by itself.
 */
static bool is_by_rank(const metric_table *table, int64_t first, int *stem_out) {
    const metric_row *row = &table->rows[first];
    const char *const kingdom = cps_taxon_rank_names[0];
    const size_t length = strlen(row->metric), end = strlen(kingdom);
    if (length < end || strcmp(row->metric + length - end, kingdom) != 0 ||
        first + CPS_TAXON_RANKS > table->count) {
        return false;
    }
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        if (strcmp(row[rank].evaluation, row->evaluation) != 0 ||
            strncmp(row[rank].metric, row->metric, length - end) != 0 ||
            strcmp(row[rank].metric + length - end, cps_taxon_rank_names[rank]) != 0 ||
            row[rank].marked) {
            return false;
        }
    }
    *stem_out = (int)(length - end);
    return true;
}

/* One line: the last values, kingdom to species. */
static void put_by_rank(text_page *page, const metric_row *rows, int stem, int name_width,
                        int metric_width) {
    put(page, "%-*s  %.*s%s .. %s%*s", name_width, "", stem, rows->metric, cps_taxon_rank_names[0],
        cps_taxon_rank_names[CPS_TAXON_RANKS - 1],
        metric_width > stem + 18 ? metric_width - stem - 18 : 0, "");
    for (int32_t rank = 0; rank < CPS_TAXON_RANKS; rank++) {
        put(page, " %6.3f", rows[rank].last);
    }
    put(page, "\n");
}

/* How sure the last value is, and what guessing would give. */
static void put_interval(text_page *page, const metric_table *table, const metric_row *row) {
    const metric_row *low = row_of(table, row->evaluation, row->metric, "_low"),
                     *high = row_of(table, row->evaluation, row->metric, "_high"),
                     *chance = row_of(table, row->evaluation, row->metric, "_chance");
    if (low == NULL || high == NULL) {
        return;
    }
    chance = chance != NULL ? chance : row_of(table, row->evaluation, "chance", "");
    put(page, "  95 %% in %.4f .. %.4f", low->last, high->last);
    if (chance != NULL) {
        put(page, ", chance %.4f", chance->last);
    }
}

static void put_table(text_page *page, const metric_table *table) {
    int name_width = 10, metric_width = 6;
    for (int64_t i = 0; i < table->count; i++) {
        const int name = (int)strnlen(table->rows[i].evaluation, 40);
        const int metric =
            is_beside(table, &table->rows[i]) ? 0 : (int)strnlen(table->rows[i].metric, 40);
        name_width = name > name_width ? name : name_width;
        metric_width = metric > metric_width ? metric : metric_width;
    }
    put(page, "%-*s  %-*s  %10s  %10s  %9s\n", name_width, "evaluation", metric_width, "metric",
        "last", "best", "at step");
    bool marked = false;
    const char *above = NULL; /* evaluation of the last line */
    for (int64_t i = 0; i < table->count; i++) {
        const metric_row *row = &table->rows[i];
        if (is_beside(table, row)) {
            continue;
        }
        const bool again = above != NULL && strcmp(row->evaluation, above) == 0;
        above = row->evaluation;
        char last[32], best[32];
        int stem;
        if (again && is_by_rank(table, i, &stem)) {
            put_by_rank(page, row, stem, name_width, metric_width);
            i += CPS_TAXON_RANKS - 1;
            continue;
        }
        put(page, "%-*.40s  %-*.40s  %10s  %10s  %9lld%s", name_width, again ? "" : row->evaluation,
            metric_width, row->metric, number_text(row->last, last), number_text(row->best, best),
            (long long)row->best_step, row->marked ? " *" : "");
        put_interval(page, table, row);
        put(page, "\n");
        marked = marked || row->marked;
    }
    if (marked) {
        put(page, "* the checkpoint of this step is kept as the best\n");
    }
}

static void put_facts(text_page *page, const cps_summary_facts *facts) {
    char duration[32];
    put(page, "%s: %lld step%s", facts->run, (long long)facts->steps, facts->steps == 1 ? "" : "s");
    if (facts->skipped > 0) {
        put(page, " (%lld skipped)", (long long)facts->skipped);
    }
    if (!isnan(facts->seconds)) {
        put(page, "  time %s", cps_duration_text(facts->seconds, duration));
    }
    if (!isnan(facts->samples_per_second)) {
        put(page, facts->samples_per_second < 10.0 ? "  %.2f samples/s" : "  %.0f samples/s",
            facts->samples_per_second);
    }
    put(page, "  %d rank%s x %d thread%s", (int)facts->ranks, facts->ranks == 1 ? "" : "s",
        (int)facts->threads, facts->threads == 1 ? "" : "s");
    if (facts->peak_memory_bytes > 0) {
        put(page, "  memory %.2f GiB a rank", (double)facts->peak_memory_bytes / 1073741824.0);
    }
    if (facts->bad_images > 0) {
        put(page, "  %lld bad image%s (quarantine.jsonl)", (long long)facts->bad_images,
            facts->bad_images == 1 ? "" : "s");
    }
    put(page, "\n");
}

char *cps_summary_text(const cps_json *events, const cps_summary_facts *facts,
                       bool (*less_is_better)(const char *metric)) {
    metric_table table = {0};
    text_page page = {0};
    collect(&table, events, less_is_better);
    mark(&table, facts->best_metric, less_is_better);
    if (table.count > 0) {
        put_table(&page, &table);
    }
    put_facts(&page, facts);
    for (int32_t i = 0; i < table.label_count; i++) {
        free(table.labels[i]);
    }
    free(table.rows);
    return page.text;
}
